// The read-out under the pointer of each chart, and the slider over the previews of a run.
// The page is complete without this file; it only adds to what is already drawn.
"use strict";

function short(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

for (const card of document.querySelectorAll(".chart-card")) {
  const data = JSON.parse(card.querySelector("script").textContent);
  const svg = card.querySelector("svg");
  const tip = card.appendChild(Object.assign(document.createElement("div"), { className: "tip" }));
  const [left, top, width, height, full] = data.frame;
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  svg.append(cursor);

  const hide = () => { tip.style.display = "none"; cursor.removeAttribute("d"); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    if (!data.lines.length) return;
    const box = svg.getBoundingClientRect();
    const inside = ((event.clientX - box.left) / box.width) * full - left;
    const wanted = data.x[0] + (Math.min(Math.max(inside, 0), width) / width) * (data.x[1] - data.x[0]);
    const rows = [];
    let step = null;
    for (const line of data.lines) {
      let best = 0;
      line.x.forEach((x, i) => { if (Math.abs(x - wanted) < Math.abs(line.x[best] - wanted)) best = i; });
      step ??= line.x[best];
      rows.push((data.lines.length > 1 ? line.label + " " : "") + short(line.y[best]));
    }
    const x = left + ((step - data.x[0]) / (data.x[1] - data.x[0])) * width;
    cursor.setAttribute("d", `M${x} ${top}V${top + height}`);
    tip.replaceChildren(...[`step ${step.toLocaleString("en")}`, ...rows].map((text) =>
      Object.assign(document.createElement("div"), { textContent: text })));
    tip.style.display = "block";
    const outer = card.getBoundingClientRect();
    const place = (x / full) * box.width + box.left - outer.left;
    const flip = place + tip.offsetWidth + 26 > card.clientWidth;
    tip.style.left = `${flip ? place - tip.offsetWidth - 12 : place + 12}px`;
    tip.style.top = `${box.top - outer.top + 14}px`;
  });
}

for (const scrub of document.querySelectorAll(".scrub")) {
  const slider = scrub.querySelector("input");
  const pictures = [...scrub.querySelectorAll("img")];
  const show = () => {
    pictures.forEach((picture, i) => { picture.hidden = i !== Number(slider.value); });
    scrub.querySelector("output").textContent = pictures[slider.value].dataset.label;
  };
  slider.addEventListener("input", show);
  show();
}
