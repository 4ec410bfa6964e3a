"""The script of the evaluation page: order, filters and search, and one stage for two pictures. Plain JavaScript, nothing fetched."""

SCRIPT = r"""
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const STEP = matchMedia("(max-width: 900px)").matches ? 8 : 24;  // how many of the list at once
  const state = {
    order: "lot", model: data.shown, reward: 0, category: "", outcome: "", query: "",  // which pictures; model 0 is the baseline
    view: "side", front: "theirs", shown: STEP, at: -1,  // how they are seen; at: the sample on the stage
  };
  const embedded = new Map();  // sample -> the addresses of its embedded pictures, in the order of the models
  for (const figure of document.querySelectorAll("#static figure")) {
    embedded.set(Number(figure.dataset.sample), [...figure.querySelectorAll("img")].map((image) => image.src));
  }
  const sides = { theirs: () => 0, ours: () => state.model };
  const stage = $("stage"), frames = $("frames");

  const link = (place, model) => data.folder + data.samples[place].images[model];
  const source = (place, model) => embedded.get(place)?.[model] ?? link(place, model);
  const pressed = (id, value) => { for (const button of $(id).children) button.setAttribute("aria-pressed", button.value === value); };
  const number = (value) => value === null ? "–" : String(Number(value.toPrecision(4))).replace("-", "−");
  const signed = (value) => value === null ? "not scored" : (value > 0 ? "+" : "") + number(value);

  function gap(sample, reward = state.reward) {
    const ours = sample.scores[state.model][reward] ?? null, theirs = sample.scores[0][reward] ?? null;
    return ours === null || theirs === null ? null : ours - theirs;
  }
  function outcome(sample) {
    const by = gap(sample);
    return by === null ? "" : by > 0 ? "win" : by < 0 ? "loss" : "tie";
  }
  function element(name, text = "", attributes = {}) {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function matching() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean), counts = { win: 0, tie: 0, loss: 0 };
    let places = data.samples.map((sample, place) => place).filter((place) => {
      const sample = data.samples[place], text = sample.prompt.toLowerCase();
      return (!state.category || sample.category === state.category) && words.every((word) => text.includes(word));
    });
    const all = places.length;
    for (const place of places) { const told = outcome(data.samples[place]); if (told) counts[told] += 1; }
    if (state.outcome) places = places.filter((place) => outcome(data.samples[place]) === state.outcome);
    if (state.order !== "lot") {
      const sign = state.order === "best" ? -1 : 1, by = (place) => sign * (gap(data.samples[place]) ?? 0);
      places = places.filter((place) => by(place) < 0).sort((a, b) => by(a) - by(b) || a - b);
    }
    const names = { "": ["All", all], win: ["Wins", counts.win], tie: ["Ties", counts.tie], loss: ["Losses", counts.loss] };
    for (const option of $("outcome").options) option.textContent = `${names[option.value][0]} (${names[option.value][1]})`;
    return places;
  }

  let places = [];
  function refresh() {
    places = matching();
    pressed("order", state.order);
    const of = places.length === data.samples.length ? "" : ` of ${data.samples.length}`;
    const none = "Nothing matches: widen the filters or clear the search.";
    $("count").textContent = places.length ? `${places.length}${of} pairs of pictures` : none;
    if (!places.includes(state.at)) state.at = places[0] ?? -1;
    $("thumbs").replaceChildren(...places.slice(0, state.shown).map(thumb));
    $("more").hidden = places.length <= state.shown;
    show();
  }
  function thumb(place) {
    const sample = data.samples[place], told = outcome(sample), item = element("li"), button = element("button", "", { type: "button" });
    for (const model of [0, state.model]) {
      button.append(picture(element("img", "", { alt: "", loading: "lazy", width: 56, height: 56, src: source(place, model) })));
    }
    const words = element("span", "", { class: "words" });
    words.append(element("span", sample.prompt, { class: "clamp" }));
    words.append(element("span", told ? `${told} ${signed(gap(sample))}` : "not scored", { class: `told ${told}` }));
    button.append(words);
    button.dataset.place = place;
    button.addEventListener("click", () => { state.at = place; show(); });
    item.append(button);
    return item;
  }
  function picture(image) {  // crisp where it is tiny, named where it is missing
    image.addEventListener("load", () => image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 64));
    image.addEventListener("load", () => image.parentElement?.classList.remove("missing"));
    image.addEventListener("error", () => image.parentElement?.classList.add("missing"));
    return image;
  }

  function show() {
    pressed("view", state.view);
    frames.dataset.view = state.view;
    frames.dataset.front = state.front;
    $("cut").hidden = state.view !== "slider";
    stage.hidden = state.at < 0;
    for (const button of $("thumbs").querySelectorAll("button")) {
      button.setAttribute("aria-current", Number(button.dataset.place) === state.at);
    }
    if (state.at < 0) return;
    const sample = data.samples[state.at];
    for (const [side, model] of Object.entries(sides)) {
      const figure = frames.querySelector("." + side), image = figure.querySelector("img"), address = source(state.at, model());
      const hidden = state.view === "toggle" && side !== state.front;
      if (image.getAttribute("src") !== address) image.src = address;
      image.alt = `${data.models[model()]}: ${sample.prompt}`;
      image.parentElement.dataset.path = link(state.at, model());
      figure.setAttribute("aria-hidden", hidden);
      const full = element("a", "full size", { href: link(state.at, model()), tabindex: hidden ? -1 : 0 });
      figure.querySelector("figcaption").replaceChildren(element("b", data.models[model()]), full);
    }
    $("prompt").textContent = sample.prompt;
    const about = [sample.category, `prompt ${sample.id}`, `picture ${sample.index}`, sample.seed && `seed ${sample.seed}`];
    $("about").textContent = about.filter(Boolean).join(" · ");
    const heads = ["Score", data.models[0], data.models[state.model], "Difference"];
    const rows = data.rewards.map((reward, column) => [
      reward, number(sample.scores[0][column] ?? null), number(sample.scores[state.model][column] ?? null), signed(gap(sample, column)),
    ]);
    $("scores").replaceChildren(line(heads, "col"), ...rows.map((cells) => line(cells, "row")));
    const place = places.indexOf(state.at);
    $("previous").disabled = place <= 0;
    $("next").disabled = place >= places.length - 1;
  }
  function line(cells, scope) {
    const row = element("tr");
    cells.forEach((text, column) => row.append(scope === "col" || !column ? element("th", text, { scope }) : element("td", text)));
    return row;
  }

  function step(by) {
    const place = places.indexOf(state.at) + by;
    if (place < 0 || place >= places.length) return;
    state.at = places[place];
    if (place >= state.shown) { state.shown += STEP; refresh(); } else show();
    const list = $("scroll"), button = $("thumbs").querySelector("[aria-current=true]");
    if (list.scrollHeight > list.clientHeight) list.scrollTop = button.offsetTop - list.clientHeight / 2;
  }
  function toggle() {
    state.front = state.view === "toggle" && state.front === "ours" ? "theirs" : "ours";
    state.view = "toggle";
    show();
  }
  function cut(share) {
    $("cut").value = Math.max(0, Math.min(100, share));
    frames.style.setProperty("--cut", $("cut").value + "%");
  }

  for (const id of ["model", "reward", "category", "outcome"]) {
    $(id).addEventListener("change", () => {
      state[id] = id === "model" || id === "reward" ? Number($(id).value) : $(id).value;
      state.shown = STEP;
      refresh();
    });
  }
  $("query").addEventListener("input", () => { state.query = $("query").value; state.shown = STEP; refresh(); });
  $("order").addEventListener("click", (event) => {
    if (event.target.value) { state.order = event.target.value; state.shown = STEP; state.at = -1; refresh(); }
  });
  $("view").addEventListener("click", (event) => {
    if (event.target.value) { state.view = event.target.value; state.front = "theirs"; show(); }
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("more").addEventListener("click", () => { state.shown += STEP; refresh(); });
  $("cut").addEventListener("input", () => cut(Number($("cut").value)));

  const drag = (event) => {
    const box = frames.querySelector(".ours .box").getBoundingClientRect();
    cut(100 * (event.clientX - box.left) / box.width);
  };
  frames.addEventListener("pointerdown", (event) => {
    if (state.view !== "slider" || event.target.closest("a")) return;
    event.preventDefault();
    frames.setPointerCapture(event.pointerId);
    drag(event);
  });
  frames.addEventListener("pointermove", (event) => { if (frames.hasPointerCapture(event.pointerId)) drag(event); });
  frames.addEventListener("click", (event) => { if (state.view !== "slider" && !event.target.closest("a")) toggle(); });

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea")) return;
    const box = stage.getBoundingClientRect(), seen = box.height && box.top < innerHeight && box.bottom > 0;
    if (seen && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      event.preventDefault();
      step(event.key === "ArrowRight" ? 1 : -1);
      if (!stage.contains(event.target)) stage.focus({ preventScroll: true });
    } else if (event.key === " " && event.target === stage) {
      event.preventDefault();
      toggle();
    }
  });

  for (const image of frames.querySelectorAll("img")) picture(image);
  $("static").remove();
  $("viewer").hidden = false;
  $("model").value = state.model;
  cut(50);
  refresh();
})();
"""
