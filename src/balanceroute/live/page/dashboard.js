"use strict";
// One stream of states comes in; each is drawn at most once per frame, and tables more rarely.
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const share = (ratio) => (100 * ratio).toFixed(1) + " %";
const BASES = {
  costs: "estimated by stated costs", fit: "estimated by fitted costs",
  bound: "no more than this; costs are not known yet",
};
const SMOOTH_RANKS = 32; // beyond that, moving bars between updates would keep the thread busy
const HISTORY = 600, TABLE_MS = 1000, SUMMARY_MS = 15000, RETRY_MS = [500, 1000, 2000, 5000];
const view = {
  state: null, bars: [], history: [], isDue: false, tableMs: 0, summaryMs: -SUMMARY_MS,
  isHeld: false, secret: "", retries: 0,
};

function setText(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

function element(name, className, parent) {
  const node = document.createElement(name);
  if (className) node.className = className;
  parent.append(node);
  return node;
}

function makeBars(count) {
  const box = byId("ranks");
  box.replaceChildren();
  box.classList.toggle("many", count > SMOOTH_RANKS);
  view.bars = Array.from({ length: count }, (_, rank) => {
    const row = element("div", "rank", box);
    element("span", "", row).textContent = String(rank);
    const bar = element("div", "bar", row);
    return { row, due: element("i", "due", bar), load: element("i", "load", bar),
             value: element("span", "value", row), last: "" };
  });
}

function drawBars(state, envelope) {
  if (view.bars.length !== state.load.length) makeBars(state.load.length);
  const scale = Math.max(1, envelope);
  view.bars.forEach((bar, rank) => {
    const load = state.load[rank], ahead = Math.min(scale, load + state.due[rank]);
    const now = [load, ahead, scale, state.open[rank]].join();
    if (now === bar.last) return;
    bar.last = now;
    bar.load.style.transform = `scaleX(${(load / scale).toFixed(3)})`;
    bar.due.style.transform = `scaleX(${(ahead / scale).toFixed(3)})`;
    bar.value.textContent = number.format(load);
    bar.row.classList.toggle("closed", !state.open[rank]);
  });
}

function fillRows(id, rows) {
  const body = byId(id);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, place) => {
    const row = body.rows[place] || body.insertRow();
    cells.forEach((text, column) => {
      const cell = row.cells[column] || row.insertCell();
      if (cell.textContent !== text) cell.textContent = text;
    });
  });
}

function fillTables(state, envelope) {
  if (byId("rank-rows").closest("details").open) {
    fillRows("rank-rows", state.load.map((load, rank) => [
      String(rank), number.format(load), number.format(envelope - load),
      number.format(state.due[rank]), String(state.running[rank]), String(state.slots[rank]),
      state.open[rank] ? "open" : "closed",
    ]));
  }
  if (view.isHeld) return;
  fillRows("decision-rows", state.decisions.slice().reverse().map((its) => [
    its.name || String(its.request), number.format(its.tokens), String(its.rank),
    number.format(its.load), number.format(its.margin), number.format(its.f),
    its.others.map(([rank, , score]) => `${rank} (${number.format(score)})`).join(", ") || "none had room",
  ]));
}

function drawHistory() {
  const canvas = byId("history"), ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const style = getComputedStyle(document.documentElement), pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const known = view.history.filter((value) => value !== null);
  const top = Math.max(0.1, Math.ceil(10 * Math.max(0, ...known)) / 10);
  const y = (value) => height - 4 - (height - 12) * value / top;
  pen.font = "12px system-ui, sans-serif";
  for (const level of [top / 2, top]) {
    pen.strokeStyle = style.getPropertyValue("--margin");
    pen.fillStyle = style.getPropertyValue("--quiet");
    pen.beginPath(); pen.moveTo(0, y(level)); pen.lineTo(width, y(level)); pen.stroke();
    pen.fillText(share(level), 4, y(level) + 12);
  }
  pen.strokeStyle = style.getPropertyValue("--load");
  pen.lineWidth = 1.5;
  pen.beginPath();
  const span = Math.max(60, view.history.length);
  let isDown = false;
  view.history.forEach((value, place) => {
    if (value === null) { isDown = false; return; }
    const x = width * (place + span - view.history.length) / (span - 1);
    if (isDown) pen.lineTo(x, y(value)); else pen.moveTo(x, y(value));
    isDown = true;
  });
  pen.stroke();
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  canvas.setAttribute("aria-label", known.length === 0 ? "No history yet"
    : `Mean ${share(mean)}, highest ${share(Math.max(...known))}, of ${known.length} seconds with steps`);
}

function summarize(state, envelope) {
  const fullest = state.load.indexOf(envelope);
  setText("summary", `${state.load.length} ranks. Fullest: rank ${fullest} with ` +
    `${number.format(envelope)} tokens. ${state.pool} requests wait. ` +
    (state.idle === null ? "No steps are seen." : `${share(state.idle)} of the time is waited.`));
}

function trouble(state) {
  const closed = state.open.flatMap((isOpen, rank) => (isOpen ? [] : [rank]));
  if (closed.length === state.open.length) return "No rank is fit for requests.";
  const ranks = closed.length > 0 ? `Closed: rank ${closed.join(", ")}. ` : "";
  return ranks + (state.signals ? "" : "The engines' metrics cannot be read.");
}

function draw() {
  view.isDue = false;
  const state = view.state, nowMs = performance.now();
  if (state === null || document.hidden) return;
  const envelope = Math.max(0, ...state.load);
  const mean = state.load.reduce((sum, load) => sum + load, 0) / state.load.length;
  drawBars(state, envelope);
  if (nowMs - view.tableMs < TABLE_MS) return;
  view.tableMs = nowMs;
  setText("idle", state.barrier ? (state.idle === null ? "–" : share(state.idle)) : "no barrier");
  setText("basis", state.barrier ? BASES[state.basis] : "ranks step by themselves");
  setText("balance", envelope > 0 ? share(mean / envelope) : "–");
  setText("envelope", number.format(envelope));
  setText("pool", number.format(state.pool));
  setText("wait", state.pool > 0 ? `oldest: ${state.wait_s.toFixed(1)} s` : "");
  setText("policy", state.policy);
  setText("shadow", state.shadow || "");
  setText("version", state.version);
  setText("trouble", trouble(state));
  fillTables(state, envelope);
  drawHistory();
  if (nowMs - view.summaryMs >= SUMMARY_MS) {
    view.summaryMs = nowMs;
    summarize(state, envelope);
  }
}

function take(state) {
  if (state.history) {
    view.history = state.history;
    if (state.policies) showAdmin(state.policies);
  } else if (state.turn % 5 === 0) {
    view.history.push(state.idle);
    if (view.history.length > HISTORY) view.history.shift();
  }
  view.state = state;
  if (!view.isDue) {
    view.isDue = true;
    requestAnimationFrame(draw);
  }
}

function authorization() {
  return view.secret ? { Authorization: `Bearer ${view.secret}` } : {};
}

// Not EventSource: that can show no key.
async function follow() {
  try {
    const answer = await fetch("/dashboard/events", { headers: authorization(), cache: "no-store" });
    if (answer.status === 401) return askForKey();
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    setText("connection", "Live");
    document.title = "BalanceRoute: live";
    view.retries = 0;
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) take(JSON.parse(part.slice(6))); // the first has what no other has
    }
  } catch (error) {
    console.info("the stream has ended:", error.message);
  }
  setText("connection", "Not connected; trying again. What is shown is old.");
  document.title = "BalanceRoute: not connected";
  setTimeout(follow, RETRY_MS[Math.min(view.retries++, RETRY_MS.length - 1)]);
}

function askForKey() {
  setText("connection", view.secret ? "That is not the key." : "A key is needed.");
  byId("key-form").hidden = false;
}

function showAdmin(policies) {
  byId("known").replaceChildren(...policies.map((name) => new Option(name, name)));
  byId("admin").hidden = false;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  view.secret = byId("key").value;
  byId("key").value = "";
  byId("key-form").hidden = true;
  follow();
});
byId("hold").addEventListener("click", (event) => {
  view.isHeld = !view.isHeld;
  event.target.setAttribute("aria-pressed", String(view.isHeld));
});
byId("policy-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/policy", {
    method: "POST", body: JSON.stringify({ policy: byId("spec").value }), headers: authorization(),
  });
  const body = await answer.json();
  setText("policy-answer", answer.ok ? `${body.policy} chooses now.` : body.error.message);
});
follow();
