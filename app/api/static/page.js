// The page: a card per photo, at most a few requests at a time.

import { KeyNeeded, key, request } from "./client.js";

const CONCURRENT = 3;
const MAX_SHOWN_LABELS = 2000;
const get = (id) => document.getElementById(id);
const waiting = []; // functions that classify a photo
let running = 0;
let finished = 0;
let total = 0;

function add(files) {
  for (const file of files) {
    const card = makeCard(file);
    get("results").prepend(card.element);
    enqueue(() => classify(file, card));
  }
}

function enqueue(task) {
  waiting.push(task);
  total++;
  showProgress();
  startNext();
}

function startNext() {
  while (running < CONCURRENT && waiting.length && get("key").hidden) {
    running++;
    const task = waiting.shift();
    task().then((done) => {
      running--;
      if (done) finished++;
      else waiting.push(task); // it needs a key
      showProgress();
      startNext();
    });
  }
}

function showProgress() {
  get("progress").textContent = total > 1 ? `${finished} of ${total} photos processed` : "";
}

function makeCard(file) {
  const element = get("card").content.firstElementChild.cloneNode(true);
  const image = element.querySelector("img");
  image.src = URL.createObjectURL(file);
  image.alt = file.name;
  element.querySelector("h2").textContent = file.name;
  return { element, image, photo: image.src, state: element.querySelector(".state") };
}

// Returns whether it has ended, with a result or an error; false if it has to be repeated with a key.
async function classify(file, card) {
  setState(card, "Classifying…");
  try {
    const response = await request("predict", { method: "POST", body: form(file) }, (seconds) =>
      setState(card, `The service is busy. Trying again in ${seconds} s…`));
    showResult(file, card, (await response.json()).predictions, response.headers.get("server-timing"));
  } catch (error) {
    if (error instanceof KeyNeeded) {
      askForKey();
      setState(card, "Waiting for the API key.");
      return false;
    }
    setState(card, error.message, true);
  }
  return true;
}

function showResult(file, card, predictions, timing) {
  setState(card, "");
  const table = card.element.querySelector("table");
  for (const prediction of predictions) addRow(file, card, table.tBodies[0], prediction);
  table.hidden = card.element.querySelector(".actions").hidden = false;
  card.element.querySelector(".timing").textContent = readable(timing);
  card.element.querySelector(".curl").onclick = (event) => copyCurl(event.target, file);
}

function addRow(file, card, body, { label, class_id: classId, probability }) {
  const row = body.insertRow();
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = label;
  const meter = document.createElement("meter");
  meter.value = probability;
  meter.setAttribute("aria-hidden", "true");
  const where = document.createElement("button");
  where.type = "button";
  where.textContent = "Show";
  where.setAttribute("aria-label", `Show where the photo looks like ${label}`);
  where.setAttribute("aria-pressed", "false");
  where.onclick = () => toggleMap(file, card, where, classId);
  row.append(name);
  row.insertCell().append(meter);
  row.insertCell().textContent = `${(100 * probability).toFixed(1)} %`;
  row.insertCell().append(where);
}

async function toggleMap(file, card, button, classId) {
  const pressed = button.getAttribute("aria-pressed") === "true";
  for (const other of card.element.querySelectorAll("[aria-pressed]")) other.setAttribute("aria-pressed", "false");
  card.shown = button;
  if (pressed) {
    card.image.src = card.photo;
    return;
  }
  button.setAttribute("aria-pressed", "true");
  try {
    const options = { method: "POST", body: form(file), headers: { Accept: "image/png" } };
    const picture = await (await request(`explain?class_id=${classId}`, options)).blob();
    const current = card.shown === button && button.getAttribute("aria-pressed") === "true";
    if (current) showPicture(card.image, picture); // unless another one was chosen in the meantime
  } catch (error) {
    button.setAttribute("aria-pressed", "false");
    setState(card, error.message, true);
  }
}

function showPicture(image, picture) {
  const url = URL.createObjectURL(picture);
  image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
  image.src = url;
}

function setState(card, text, isError = false) {
  card.state.textContent = text;
  card.state.classList.toggle("error", isError);
}

function form(file) {
  const data = new FormData();
  data.append("file", file);
  return data;
}

// "decode;dur=1.2, queue;dur=0.1" as words
function readable(timing) {
  const parts = [...(timing ?? "").matchAll(/(\w+);dur=([\d.]+)/g)];
  return parts.map(([, name, ms]) => `${name} ${Number(ms).toFixed(1)} ms`).join(", ");
}

async function copyCurl(button, file) {
  const header = key.get() ? ' -H "X-API-Key: $KEY"' : "";
  const name = file.name.replaceAll(/["$`\\]/g, "\\$&");
  const command = `curl -F "file=@${name}"${header} "${new URL("predict", location.href)}"`;
  if (!navigator.clipboard) { // browsers offer it to HTTPS and localhost only
    window.prompt("Copy the command:", command);
    return;
  }
  await navigator.clipboard.writeText(command);
  button.textContent = "Copied";
}

function askForKey() {
  get("key").hidden = false;
  get("secret").focus();
}

async function showModel() {
  try {
    const model = await (await request("model")).json();
    const { labels } = await (await request("model/labels")).json();
    const examples = [1, 2, 3].map((quarter) => labels[Math.floor(quarter * labels.length / 4)]);
    get("about").textContent =
      `Recognizes ${labels.length} classes, such as ${[...new Set(examples)].join(", ")}. Anything else gets a wrong label.`;
    get("demonstration").hidden = !model.name.endsWith("_tiny_imagenet_200");
    get("model").textContent = `${model.name} on ${model.device}, ${model.precision}. Licence: ${model.licence}.`;
    get("classes").hidden = false;
    get("labels").replaceChildren(...labels.slice(0, MAX_SHOWN_LABELS).map((label) => {
      const item = document.createElement("span");
      item.textContent = label;
      return item;
    }));
  } catch (error) {
    if (error instanceof KeyNeeded) askForKey();
    get("about").textContent = error.message;
  }
}

get("key").onsubmit = (event) => {
  event.preventDefault();
  key.set(get("secret").value);
  get("key").hidden = true;
  showModel();
  startNext();
};
get("files").onchange = (event) => {
  add(event.target.files);
  event.target.value = "";
};
document.ondragover = (event) => {
  event.preventDefault();
  get("drop").classList.add("over");
};
document.ondragleave = () => get("drop").classList.remove("over");
document.ondrop = (event) => { // anywhere: the browser would leave the page to show a photo that misses
  event.preventDefault();
  get("drop").classList.remove("over");
  add(event.dataTransfer.files);
};
document.onpaste = (event) => add(event.clipboardData.files);
for (const button of document.querySelectorAll("[data-sample]")) {
  button.onclick = async () => {
    const name = button.dataset.sample;
    try {
      const blob = await (await request(`static/samples/${name}`)).blob();
      add([new File([blob], name, { type: "image/jpeg" })]);
    } catch (error) {
      get("progress").textContent = error.message;
    }
  };
}
showModel();
