// Meshes side by side that turn together: truth beside what a model made, at any training step, or
// the files of a folder.
//
// One WebGL context draws for all of them: browsers allow about sixteen contexts, and a page of
// forty canvases would lose most. It draws off screen and the picture is copied into the visible
// 2D canvas of each view, only when something changed. A pair is unpacked when it comes near the
// window. Until then, and where WebGL is missing, the still picture under the canvas is seen.
// A stage's meshes are in its <script> (the byte layout is described in meshes.py; a list has one
// mesh per training step), or behind the data-src of its figures: packed the same way, or GLB.
"use strict";

(() => {
  const REACH = 1.25, FIELD_OF_VIEW = 28, CLAY = [0.80, 0.70, 0.58], SLATE = [0.45, 0.58, 0.80];
  const state = (text) => { document.documentElement.dataset.viewer = text; };
  const stages = [...document.querySelectorAll(".stage")]
    .filter((s) => s.querySelector("script, [data-src]"));
  if (!stages.length) { state("empty"); return; }

  let renderer;
  try {
    renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true });
  } catch {
    state("no-webgl");
    for (const note of document.querySelectorAll(".no-webgl")) note.hidden = false;
    return;
  }
  renderer.outputColorSpace = THREE.SRGBColorSpace;
  renderer.domElement.addEventListener("webglcontextlost", () => {
    for (const stage of stages) stage.classList.remove("live");
    state("lost");
  });

  // ---- unpacking ------------------------------------------------------------------------------
  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function reader(bytes) {
    let at = 0;
    const planes = (count, width) => {
      const values = new Uint32Array(count);
      for (let p = 0; p < width; p++, at += count)
        for (let i = 0; i < count; i++) values[i] |= bytes[at + i] << (8 * p);
      return values;
    };
    return {
      planes,
      sums(count, width) {
        const values = planes(count, width), mask = width === 2 ? 0xffff : 0xffffffff;
        for (let i = 1; i < count; i++) values[i] = ((values[i] + values[i - 1]) & mask) >>> 0;
        return values;
      },
      raw(count) { at += count; return bytes.subarray(at - count, at); },
    };
  }

  // From light grey over amber to red; the same stops as the legend in page.css.
  function errorColor(share) {
    const stops = [[0, 216, 221, 230], [0.35, 242, 198, 107], [0.65, 224, 123, 57], [1, 179, 32, 44]];
    const k = stops.findIndex((stop, i) => i === stops.length - 2 || share <= stops[i + 1][0]);
    const [a, b] = [stops[k], stops[k + 1]], t = Math.min(1, (share - a[0]) / (b[0] - a[0]));
    return [1, 2, 3].map((c) => Math.pow((a[c] + (b[c] - a[c]) * t) / 255, 2.2));
  }

  function unpack(mesh) {
    const read = reader(THREE.unzlibSync(bytesOf(mesh.data))), { vertices, faces } = mesh;
    const axes = [0, 1, 2].map(() => read.sums(vertices, 2));
    const shade = mesh.shade ? read.raw(vertices) : null, error = mesh.error ? read.raw(vertices) : null;
    const first = read.sums(faces, 4), second = read.planes(faces, 4), third = read.planes(faces, 4);
    const position = new Float32Array(vertices * 3), index = new Uint32Array(faces * 3);
    for (let v = 0; v < vertices; v++)
      for (let a = 0; a < 3; a++) position[3 * v + a] = (axes[a][v] / 65535) * 2 * REACH - REACH;
    for (let f = 0; f < faces; f++)
      index.set([first[f], first[f] + second[f], first[f] + third[f]], 3 * f);
    let geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(position, 3));
    geometry.setIndex(new THREE.BufferAttribute(index, 1));
    // Two sets of vertex colours: the sky that a vertex sees, and its error in that light.
    const palette = Array.from({ length: 256 }, (_, i) => errorColor(i / 255));
    const color = new Float32Array(vertices * 3), heat = new Float32Array(vertices * 3);
    for (let v = 0; v < vertices; v++) {
      const open = shade ? 0.28 + 0.72 * Math.pow(shade[v] / 255, 1.4) : 1;
      const tone = error ? palette[error[v]] : [0.62, 0.63, 0.66];
      for (let a = 0; a < 3; a++) { color[3 * v + a] = open; heat[3 * v + a] = tone[a] * (0.5 + 0.5 * open); }
    }
    geometry.setAttribute("color", new THREE.BufferAttribute(color, 3));
    geometry.setAttribute("heat", new THREE.BufferAttribute(heat, 3));
    geometry = THREE.toCreasedNormals(geometry, (38 * Math.PI) / 180);
    geometry.userData.shade = geometry.attributes.color;
    geometry.userData.heat = geometry.attributes.heat;
    geometry.deleteAttribute("heat");
    return geometry;
  }

  // The shadow on the floor, seen from above only.
  function floorOf(floor) {
    const dark = bytesOf(floor.data);
    const pixels = new Uint8Array(4 * dark.length);
    dark.forEach((value, i) => { pixels.set([value, value, value, 255], 4 * i); });
    const map = new THREE.DataTexture(pixels, floor.size, floor.size);
    map.magFilter = map.minFilter = THREE.LinearFilter;
    map.needsUpdate = true;
    const plane = new THREE.Mesh(
      new THREE.PlaneGeometry(2 * floor.half, 2 * floor.half),
      new THREE.MeshBasicMaterial({ color: 0x000000, alphaMap: map, transparent: true, opacity: 0.66, depthWrite: false }),
    );
    plane.rotation.x = -Math.PI / 2;
    plane.scale.y = -1; // rows of the picture run along +z
    plane.material.side = THREE.DoubleSide;
    plane.position.y = floor.y - 0.002;
    return plane;
  }

  // What is drawn of one mesh: `parts` are its THREE.Mesh, the floor's shadow is optional.
  function packedItem(mesh) {
    const body = new THREE.Mesh(unpack(mesh));
    return { body, parts: [body], floor: mesh.floor ? floorOf(mesh.floor) : null };
  }

  let room = null; // what shiny materials reflect; without it metal is black

  // A GLB file as the file says, moved and scaled so that the ball around its box is the unit ball.
  async function glbItem(buffer) {
    const { scene: found } = await new THREE.GLTFLoader().parseAsync(buffer, "");
    const parts = [], corner = new THREE.Vector3();
    found.updateMatrixWorld(true);
    found.traverse((node) => { if (node.isMesh) parts.push(node); });
    const corners = (visit) => {
      for (const part of parts)
        for (let i = 0, { position } = part.geometry.attributes; i < position.count; i++)
          visit(corner.fromBufferAttribute(position, i).applyMatrix4(part.matrixWorld));
    };
    const low = new THREE.Vector3(Infinity, Infinity, Infinity), high = low.clone().negate();
    corners((at) => { low.min(at); high.max(at); });
    if (!Number.isFinite(high.x - low.x)) throw new Error("the file holds no surface");
    const center = low.clone().add(high).multiplyScalar(0.5);
    let radius = 0;
    corners((at) => { radius = Math.max(radius, at.distanceTo(center)); });
    const moved = new THREE.Group(), body = new THREE.Group();
    moved.position.copy(center).negate();
    body.scale.setScalar(1 / (radius || 1));
    body.add(moved.add(found));
    for (const part of parts) part.userData.own = part.material;
    room ??= new THREE.PMREMGenerator(renderer).fromScene(new THREE.RoomEnvironment()).texture;
    return { body, parts, floor: null };
  }

  async function itemAt(url) {
    const reply = await fetch(url);
    if (!reply.ok) throw new Error(await reply.text());
    if (!url.endsWith(".glb")) return packedItem(await reply.json());
    try {
      return await glbItem(await reply.arrayBuffer());
    } catch (error) {
      throw new Error(`cannot be read as GLB: ${error.message}`);
    }
  }

  // ---- one scene for all ----------------------------------------------------------------------
  const linear = (rgb) => new THREE.Color().setRGB(...rgb);
  const clay = (rgb, more) => new THREE.MeshStandardMaterial({ color: linear(rgb), vertexColors: true, roughness: 0.82, side: THREE.DoubleSide, ...more });
  const edges = new THREE.LineBasicMaterial({ color: 0x10131a, transparent: true, opacity: 0.32 });
  const normals = new THREE.MeshNormalMaterial({ side: THREE.DoubleSide });
  const errors = new THREE.MeshStandardMaterial({ vertexColors: true, roughness: 0.9, side: THREE.DoubleSide });
  const solids = { truth: clay(CLAY), made: clay(SLATE) };
  // Of files: one side only, so that a surface turned inside out shows; and flat where a file has no
  // normals, as glTF says.
  const [smooth, flat] = [false, true].map((flatShading) => ({
    clay: clay(SLATE, { vertexColors: false, side: THREE.FrontSide, flatShading }),
    normals: new THREE.MeshNormalMaterial({ flatShading }),
  }));
  const scene = new THREE.Scene();
  const camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.1, 60);
  const key = new THREE.DirectionalLight(0xffffff, 2.3);
  const fill = new THREE.DirectionalLight(0xffffff, 0.35);
  const sky = new THREE.HemisphereLight(0xffffff, 0x6d6a66, 1.15);
  scene.add(sky, key, key.target, fill, fill.target);

  const pressed = document.querySelector("[data-look][aria-pressed=true]");
  let look = pressed ? pressed.dataset.look : "clay", spinning = false, linked = false;
  const pairs = [];

  function materialOf(part, role) {
    const packed = part.geometry.userData.shade;
    const ofFiles = part.geometry.attributes.normal ? smooth : flat;
    if (look === "normals") return packed ? normals : ofFiles.normals;
    if (look === "file" && part.userData.own) return part.userData.own;
    if (!packed) return ofFiles.clay;
    return look === "error" ? errors : role === "truth" ? solids.truth : solids.made;
  }

  // Gives every part of a mesh the look that is chosen.
  function dress(item, role) {
    for (const part of item.parts) {
      part.material = materialOf(part, role);
      const { shade, heat } = part.geometry.userData;
      if (shade) part.geometry.setAttribute("color", look === "error" ? heat : shade);
      if (look === "edges" && !part.userData.wire) {
        part.userData.wire = new THREE.LineSegments(new THREE.WireframeGeometry(part.geometry), edges);
        part.add(part.userData.wire);
      }
      if (part.userData.wire) part.userData.wire.visible = look === "edges";
    }
  }

  // The mesh that a view shows now; of several steps each is unpacked when it is first looked at.
  function itemOf(view) {
    if (!view.steps) return view.item;
    const at = Math.min(view.at, view.steps.length - 1);
    if (!(at in view.items)) view.items[at] = view.steps[at] ? packedItem(view.steps[at]) : null;
    return view.items[at];
  }

  function draw(pair) {
    pair.dirty = false;
    const ratio = 2; // also on plain screens: smooth outlines
    for (const view of pair.views) {
      const item = itemOf(view), figure = view.canvas.parentElement;
      const size = Math.max(1, Math.round(view.canvas.clientWidth * ratio));
      if (view.canvas.width !== size || view.canvas.height !== size) view.canvas.width = view.canvas.height = size;
      const context = view.canvas.getContext("2d");
      context.clearRect(0, 0, size, size);
      figure.classList.add("drawn");
      figure.classList.toggle("bare", !item);
      if (!item) continue;
      const at = renderer.domElement;
      if (at.width !== size || at.height !== size) renderer.setSize(size, size, false);
      camera.position.copy(pair.camera.position);
      camera.quaternion.copy(pair.camera.quaternion);
      key.position.set(-0.55, 0.95, 0.65).applyQuaternion(camera.quaternion);
      fill.position.set(1, 0.1, 0.3).applyQuaternion(camera.quaternion);
      dress(item, view.role);
      const asInFile = look === "file" && item.parts.some((part) => part.userData.own);
      scene.environment = asInFile ? room : null;
      scene.environmentIntensity = 0.4;
      sky.intensity = asInFile ? 0 : 1.15; // the room lights it already
      key.intensity = asInFile ? 0.8 : 2.3;
      scene.add(item.body);
      if (item.floor) {
        item.floor.visible = look !== "normals" && camera.position.y > item.floor.position.y;
        scene.add(item.floor);
      }
      renderer.render(scene, camera);
      scene.remove(item.body);
      if (item.floor) scene.remove(item.floor);
      context.drawImage(at, 0, 0);
    }
    if (!pair.stage.classList.contains("live")) {
      pair.stage.classList.add("live");
      state(`ready ${pairs.filter((p) => p.stage.classList.contains("live")).length}`);
    }
  }

  let waiting = false;
  function refresh(...changed) {
    for (const pair of changed) pair.dirty = true;
    if (!waiting) { waiting = true; requestAnimationFrame(frame); }
  }
  function frame() {
    waiting = false;
    for (const pair of pairs) {
      if (!pair.views || !pair.near) continue;
      if (spinning) { pair.controls.autoRotate = true; pair.controls.update(); pair.dirty = true; }
      if (pair.dirty && pair.views.length) draw(pair);
    }
    if (spinning) refresh();
  }

  function home(camera) {
    const around = (35 * Math.PI) / 180, above = (22 * Math.PI) / 180;
    const distance = 1.09 / Math.sin((FIELD_OF_VIEW / 2) * (Math.PI / 180));
    camera.position.set(Math.cos(above) * Math.sin(around), Math.sin(above), Math.cos(above) * Math.cos(around));
    camera.position.multiplyScalar(distance);
    camera.lookAt(0, 0, 0);
  }

  // One camera for all stages of the page, when they are linked.
  function follow(pair) {
    for (const other of pairs) {
      if (other === pair || !other.views) continue;
      other.camera.position.copy(pair.camera.position);
      other.camera.quaternion.copy(pair.camera.quaternion);
    }
    refresh(...pairs);
  }

  function open(pair) {
    pair.opened = true;
    const script = pair.stage.querySelector("script");
    const data = script ? JSON.parse(script.textContent) : {};
    pair.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.1, 60);
    home(pair.camera);
    const views = [];
    for (const figure of pair.stage.querySelectorAll(".view")) {
      const { role, src } = figure.dataset, mesh = data[role];
      const view = { role, at: Number(figure.closest("[data-at]")?.dataset.at ?? 0) };
      const add = () => { view.canvas = figure.appendChild(document.createElement("canvas")); views.push(view); };
      if (Array.isArray(mesh)) {
        Object.assign(view, { steps: mesh, items: {} });
        add();
      } else if (mesh && mesh.faces) {
        view.item = packedItem(mesh);
        add();
      } else if (src) {
        itemAt(src).then((item) => { view.item = item; add(); refresh(pair); }, (error) => {
          figure.querySelector(".nothing").textContent = String(error.message || error).slice(0, 300);
          state("failed");
        });
      }
    }
    pair.controls = new THREE.OrbitControls(pair.camera, pair.stage);
    Object.assign(pair.controls, { enablePan: false, enableZoom: false, autoRotateSpeed: 3, rotateSpeed: 1.6 });
    pair.stage.style.touchAction = "pan-y";
    // Zoom only with Ctrl or a pinch, so that scrolling the page does not get stuck in a picture.
    pair.stage.addEventListener("wheel", (event) => { pair.controls.enableZoom = event.ctrlKey; }, { capture: true });
    pair.controls.addEventListener("change", () => (linked ? follow(pair) : refresh(pair)));
    pair.stage.addEventListener("dblclick", () => { pair.controls.reset(); refresh(pair); });
    pair.views = views;
    if (views.length) refresh(pair);
  }

  const nearby = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const pair = pairs[stages.indexOf(entry.target)];
      pair.near = entry.isIntersecting;
      if (!pair.near) continue;
      if (!pair.opened) open(pair);
      else if (pair.views) refresh(pair);
    }
  }, { rootMargin: "300px" });
  for (const stage of stages) { pairs.push({ stage, dirty: true, near: false }); nearby.observe(stage); }
  new ResizeObserver(() => refresh(...pairs)).observe(document.body);

  // ---- toolbar --------------------------------------------------------------------------------
  for (const bar of document.querySelectorAll(".toolbar.looks")) {
    bar.hidden = false;
    for (const button of bar.querySelectorAll("[data-look]"))
      button.addEventListener("click", () => {
        look = button.dataset.look;
        for (const other of bar.querySelectorAll("[data-look]"))
          other.setAttribute("aria-pressed", String(other === button));
        bar.classList.toggle("show-error", look === "error");
        refresh(...pairs);
      });
    bar.querySelector("[data-spin]").addEventListener("click", (event) => {
      spinning = !spinning;
      event.currentTarget.setAttribute("aria-pressed", String(spinning));
      for (const pair of pairs) if (pair.controls) pair.controls.autoRotate = spinning;
      refresh();
    });
    bar.querySelector("[data-home]").addEventListener("click", () => {
      for (const pair of pairs) if (pair.controls) pair.controls.reset();
      refresh(...pairs);
    });
  }
  for (const button of document.querySelectorAll("[data-link]"))
    button.addEventListener("click", () => {
      linked = !linked;
      button.setAttribute("aria-pressed", String(linked));
      const first = pairs.find((pair) => pair.views && pair.near);
      if (linked && first) follow(first);
    });
  for (const slider of document.querySelectorAll("[data-at] input[type=range]")) {
    const section = slider.closest("[data-at]"), output = section.querySelector("output");
    const labels = slider.dataset.labels.split("|");
    const move = () => {
      section.dataset.at = slider.value;
      output.textContent = labels[slider.value];
      for (const pair of pairs) {
        if (!section.contains(pair.stage) || !pair.views) continue;
        for (const view of pair.views) view.at = Number(slider.value);
        refresh(pair);
      }
    };
    slider.addEventListener("input", move);
    move();
  }
  state("waiting");
})();
