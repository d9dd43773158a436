"use strict";
// Filters, boxes, enlarging and sorting. The page reads without it.
document.documentElement.classList.add("js");

const form = document.querySelector("form.filter");
const noun = form.dataset.noun ?? "prompt"; // what an article is about
const rows = [...document.querySelectorAll(".gallery > article")].map((article) => ({
  article,
  task: article.dataset.task,
  flags: article.dataset.flags.split(" "),
  kinds: article.dataset.kinds.split(","),
  doubt: Number(article.dataset.doubt),
  text: article.querySelector("h3").textContent.toLowerCase(),
  pictures: article.querySelectorAll(".shot").length,
}));

// Filters; the address keeps them.

const FIELDS = ["q", "task", "kind", "verdict"].filter((name) => form.elements[name]);

function words(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function fits(row, { q, task, kind, verdict }) {
  const wanted = q.toLowerCase().split(/\s+/).filter(Boolean);
  return (!task || row.task === task) && (!verdict || row.flags.includes(verdict)) &&
    (!kind || row.kinds.includes(kind)) &&
    wanted.every((word) => row.text.includes(word));
}

// Whether a picture is one that the filter for kinds or scorers asks for.
function concerns(shot, { kind, verdict }) {
  return (!kind || shot.dataset.kinds.split(",").includes(kind)) &&
    (verdict !== "scorers" || shot.classList.contains("doubted"));
}

// The bench's order, or those first that the scorers disagree on most.
let doubtFirst = false;
function order(byDoubt) {
  if (byDoubt === doubtFirst) return;
  doubtFirst = byDoubt;
  const sorted = byDoubt ? [...rows].sort((a, b) => b.doubt - a.doubt) : rows;
  document.querySelector(".gallery").append(...sorted.map((row) => row.article));
}

function filter() {
  const values = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));
  let prompts = 0;
  let pictures = 0;
  order(values.verdict === "scorers");
  for (const row of rows) {
    for (const shot of row.article.querySelectorAll(".shot")) {
      shot.classList.toggle("aside", !concerns(shot, values));
    }
    const shown = fits(row, values);
    row.article.hidden = !shown;
    prompts += shown;
    pictures += shown ? row.pictures : 0;
  }
  const of = prompts < rows.length ? ` of ${rows.length.toLocaleString("en")}` : "";
  form.querySelector("output").textContent =
    `${prompts.toLocaleString("en")}${of} ${noun}${rows.length === 1 ? "" : "s"}, ` +
    words(pictures, "picture");
  document.querySelector(".none").hidden = prompts > 0;
}

function toAddress() {
  const values = new URLSearchParams();
  for (const name of FIELDS) {
    if (form.elements[name].value) values.set(name, form.elements[name].value);
  }
  if (form.elements.boxes.checked) values.set("boxes", "1");
  const text = values.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function fromAddress() {
  const hash = location.hash.slice(1);
  if (hash && !hash.includes("=")) return; // a link to a section
  const values = new URLSearchParams(hash);
  for (const name of FIELDS) {
    form.elements[name].value = values.get(name) ?? "";
  }
  // A value that is no option leaves a list or radio buttons with none chosen.
  for (const name of ["task", "kind"]) {
    if (form.elements[name]?.selectedIndex < 0) form.elements[name].value = "";
  }
  if (!form.querySelector("[name=verdict]:checked")) form.elements.verdict.value = "";
  form.elements.boxes.checked = values.has("boxes");
  showAllBoxes();
  filter();
}

// Boxes

function showBoxes(shot, shown) {
  shot.classList.toggle("boxed", shown);
  shot.querySelector(".toggle")?.setAttribute("aria-pressed", String(shown));
}

function showAllBoxes() {
  for (const shot of document.querySelectorAll(".gallery .shot")) {
    showBoxes(shot, form.elements.boxes.checked);
  }
}

// The enlarged picture

const dialog = document.querySelector("dialog.large");
let current = null;

function enlarge(shot) {
  current = shot;
  const copy = shot.cloneNode(true);
  const heading = document.createElement("h3");
  heading.dir = "auto";
  heading.textContent = shot.closest("article").querySelector("h3").textContent;
  const picture = copy.querySelector("img");
  copy.querySelector(".enlarge").replaceWith(picture);
  copy.querySelector("figcaption").prepend(heading);
  dialog.querySelector(".body").replaceChildren(copy);
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const shots = [...document.querySelectorAll(".gallery > article:not([hidden]) .shot")];
  const next = shots[(shots.indexOf(current) + by + shots.length) % shots.length];
  if (next) enlarge(next);
}

dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    event.preventDefault();
    step(event.key === "ArrowLeft" ? -1 : 1);
  }
});
dialog.addEventListener("close", () => current?.querySelector(".enlarge").focus());

// Sorting

function sort(header) {
  const table = header.closest("table");
  const column = [...header.parentElement.children].indexOf(header);
  const last = header.getAttribute("aria-sort");
  const first = column === 0 ? "ascending" : "descending";
  const order = !last ? first : last === "ascending" ? "descending" : "ascending";
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const key = (row) => row.children[column];
  const compare = column === 0
    ? (a, b) => key(a).textContent.localeCompare(key(b).textContent, "en")
    : (a, b) => key(a).dataset.order - key(b).dataset.order;
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
}

for (const header of document.querySelectorAll(".sortable .keys th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  header.append(button);
}

// One listener for every button

document.addEventListener("click", (event) => {
  const target = event.target.closest("button");
  if (event.target === dialog) dialog.close();
  if (!target) return;
  const shot = target.closest(".shot");
  if (target.matches(".enlarge")) enlarge(shot);
  else if (target.matches(".toggle")) {
    const shown = !shot.classList.contains("boxed");
    showBoxes(shot, shown);
    if (dialog.contains(shot)) showBoxes(current, shown);
  } else if (target.matches(".step")) step(Number(target.dataset.step));
  else if (target.matches(".close")) dialog.close();
  else if (target.matches(".reset")) {
    form.reset();
    changed();
  } else if (target.closest(".sortable .keys")) sort(target.closest("th"));
});

function changed() {
  toAddress();
  filter();
}

// "input" while typing; "change" too, since not every way to choose from a list gives both.
for (const kind of ["input", "change"]) {
  form.addEventListener(kind, (event) => {
    if (event.target.name === "boxes") showAllBoxes();
    changed();
  });
}
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => {
  fromAddress();
  if (location.hash.includes("=")) document.querySelector("#pictures").scrollIntoView();
});
fromAddress();
