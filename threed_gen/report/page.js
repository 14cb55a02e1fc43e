// The read-out under the pointer of each chart, the slider over the previews of a run, and the
// order of a contact sheet.
// The page is complete without this file; it only adds to what is already drawn.
"use strict";

function short(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

// Where the pointer is, and what to say there, for a chart of curves …
function onCurves(data, inside, width) {
  const wanted = data.x[0] + (Math.min(Math.max(inside, 0), width) / width) * (data.x[1] - data.x[0]);
  const rows = [];
  let step = null;
  for (const line of data.lines) {
    let best = 0;
    line.x.forEach((x, i) => { if (Math.abs(x - wanted) < Math.abs(line.x[best] - wanted)) best = i; });
    step ??= line.x[best];
    rows.push((data.lines.length > 1 ? line.label + " " : "") + short(line.y[best]));
  }
  const x = ((step - data.x[0]) / (data.x[1] - data.x[0])) * width;
  return { x, rows: [`step ${step.toLocaleString("en")}`, ...rows] };
}

// … and for one of bars: each is its left and right end in the picture, and its words.
function onBars(data, inside) {
  const bar = data.bars.find(([low, high]) => inside >= low && inside < high);
  return bar && { x: (bar[0] + bar[1]) / 2, rows: bar.slice(2) };
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
    const box = svg.getBoundingClientRect();
    const inside = ((event.clientX - box.left) / box.width) * full - left;
    const found = data.bars ? onBars(data, inside) : data.lines.length && onCurves(data, inside, width);
    if (!found) { hide(); return; }
    const x = left + found.x;
    cursor.setAttribute("d", `M${x} ${top}V${top + height}`);
    tip.replaceChildren(...found.rows.map((text) =>
      Object.assign(document.createElement("div"), { textContent: text })));
    tip.style.display = "block";
    const outer = card.getBoundingClientRect();
    const place = (x / full) * box.width + box.left - outer.left;
    const flip = place + tip.offsetWidth + 26 > card.clientWidth;
    tip.style.left = `${flip ? place - tip.offsetWidth - 12 : place + 12}px`;
    tip.style.top = `${box.top - outer.top + 14}px`;
  });
}

for (const scrub of document.querySelectorAll(".scrub:not(.steps)")) {
  const slider = scrub.querySelector("input");
  const pictures = [...scrub.querySelectorAll("img")];
  const show = () => {
    pictures.forEach((picture, i) => { picture.hidden = i !== Number(slider.value); });
    scrub.querySelector("output").textContent = pictures[slider.value].dataset.label;
  };
  slider.addEventListener("input", show);
  show();
}

// Contact sheet: put the samples in another order.
for (const bar of document.querySelectorAll("[data-sorts]")) {
  const cards = [...document.getElementById(bar.dataset.sorts).children];
  bar.hidden = false;
  for (const button of bar.querySelectorAll("[data-by]"))
    button.addEventListener("click", () => {
      const by = button.dataset.by;
      const value = (card) => (by in card.dataset ? Number(card.dataset[by]) : -1);
      const order = by ? [...cards].sort((a, b) => value(b) - value(a)) : cards;
      cards[0].parentElement.append(...order);
      for (const other of bar.querySelectorAll("[data-by]"))
        other.setAttribute("aria-pressed", String(other === button));
    });
}
