"use strict";
// Draws what many instances need. Everything from a plan is set as text, never parsed as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const NS = "http://www.w3.org/2000/svg";
  const FEW = 60;
  const SHOWN = 400;
  const SIGNS = { ok: "✓", failed: "✗", stopped: "■", unknown: "?" };
  const STATES = { failed: "failed", stopped: "stopped with the run", unknown: "no end", ok: "succeeded" };

  const fill = (node, attributes, children) => {
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
  const number = (n) => n.toLocaleString("en-US");
  const figure = (x) => {
    if (x === 0) return "0";
    const size = Math.abs(x);
    if (size < 1e-3 || size >= 1e7) return x.toExponential(2).replace("e+", "e");
    return x.toLocaleString("en-US", { maximumSignificantDigits: 4 });
  };

  const instances = data.instances.map(([group, index, state, words, started, ended, word, lines]) => {
    const name = `${group}[${index}]`;
    const text = [name, state, words, word || "", ...lines].join("\n").toLowerCase();
    return { group, index, name, state, words, started, ended, word, lines, text };
  });
  const happenings = data.happenings.map(([at, kind, words, who]) => {
    return { at, kind, words, who, text: `${words}\n${who || ""}\n${kind}`.toLowerCase() };
  });
  const wanted = { state: "all", kind: "all", terms: [], chosen: null };
  const matches = (text) => wanted.terms.every((term) => text.includes(term));

  // --- filters

  function filters(place, choices, current, choose) {
    const buttons = choices.filter(([, , count]) => count > 0).map(([value, label, count]) => {
      const button = el("button", { type: "button", "data-value": value, "aria-pressed": value === current }, `${label} ${number(count)}`);
      button.addEventListener("click", () => {
        buttons.forEach((b) => b.setAttribute("aria-pressed", b === button));
        choose(value);
      });
      return button;
    });
    place.replaceChildren(...buttons);
    buttons.forEach((b) => b.setAttribute("aria-pressed", b.dataset.value === current));
  }

  // --- instances

  const grid = $("grid");
  const cells = [];

  function build() {
    const groups = new Map();
    for (const instance of instances) {
      if (!groups.has(instance.group)) groups.set(instance.group, []);
      groups.get(instance.group).push(instance);
    }
    grid.className = instances.length <= FEW ? "few" : "many";
    for (const [group, members] of groups) {
      const box = el("div", { class: "cells", role: "group", "aria-label": `instances of ${group}` });
      const block = el("div", {}, el("p", { class: "group-name" }, group, " ", el("small", {}, number(members.length))), box);
      for (const instance of members) {
        const took = instance.started !== null && instance.ended !== null ? ` after ${figure(instance.ended - instance.started)} s` : "";
        const label = `${instance.name} ${instance.words}${took}`;
        const shown = instance.state === "ok" ? `${instance.name}${took}` : label;
        const content = instances.length <= FEW ? [el("b", {}, SIGNS[instance.state]), shown] : [SIGNS[instance.state]];
        const cell = el("button", { type: "button", class: `cell ${instance.state}`, "aria-label": label, title: label, "aria-pressed": "false", tabindex: cells.length ? -1 : 0 }, ...content);
        cell.addEventListener("click", () => choose(instance, cell));
        cells.push({ cell, instance, block });
        box.append(cell);
      }
      grid.append(block);
    }
    // One stop of the Tab key, arrows within: a thousand cells must not be a thousand stops.
    grid.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const seen = cells.filter((c) => !c.cell.hidden);
      const here = seen.findIndex((c) => c.cell === document.activeElement);
      let next = null;
      if (step && here >= 0) next = seen[here + step];
      if (event.key === "Home") next = seen[0];
      if (event.key === "End") next = seen[seen.length - 1];
      if (!next) return;
      event.preventDefault();
      cells.forEach((c) => c.cell.setAttribute("tabindex", -1));
      next.cell.setAttribute("tabindex", 0);
      next.cell.focus();
    });
    if (!instances.length) grid.append(el("p", { class: "none" }, "No instance was started."));
  }

  function choose(instance, cell) {
    cells.forEach((c) => c.cell.setAttribute("aria-pressed", c.cell === cell));
    const times = [];
    if (instance.started !== null) times.push(`started at ${figure(instance.started)} s`);
    if (instance.ended !== null) times.push(`ended at ${figure(instance.ended)} s`);
    const own = happenings.filter((h) => h.who === instance.name).length;
    const show = el("button", { type: "button" }, `its events in the timeline (${number(own)})`);
    show.addEventListener("click", () => {
      $("search").value = instance.name;
      search();
      $("timeline").scrollIntoView();
    });
    const parts = [
      el("h3", {}, `${SIGNS[instance.state]} ${instance.name}`),
      el("p", {}, `${instance.words}; ${times.join(", ")}.`),
      instance.word ? el("p", {}, `It last said: ${instance.word}`) : null,
      instance.lines.length ? el("pre", {}, instance.lines.join("\n")) : el("p", { class: "none" }, `What it wrote is in ${instance.group}/${instance.index}/ of the run's folder.`),
      own ? show : null,
    ];
    $("detail").replaceChildren(...parts.filter(Boolean));
    $("detail").hidden = false;
  }

  function showInstances() {
    let seen = 0;
    const blocks = new Map();
    for (const { cell, instance, block } of cells) {
      const hidden = !(wanted.state === "all" || wanted.state === instance.state) || !matches(instance.text);
      cell.hidden = hidden;
      if (hidden) cell.style.display = "none"; else cell.style.display = "";
      seen += hidden ? 0 : 1;
      blocks.set(block, (blocks.get(block) || 0) + (hidden ? 0 : 1));
    }
    for (const [block, count] of blocks) block.hidden = count === 0;
    const first = cells.find((c) => !c.cell.hidden);
    if (first && !cells.some((c) => !c.cell.hidden && c.cell.getAttribute("tabindex") === "0")) first.cell.setAttribute("tabindex", 0);
    return seen;
  }

  // --- events

  function showEvents() {
    const seen = happenings.filter((h) => (wanted.kind === "all" || wanted.kind === h.kind) && matches(h.text));
    const rows = seen.slice(0, SHOWN).map((h) => el("li", { class: h.kind },
      el("span", { class: "at n" }, h.at.toFixed(3)), el("span", { class: "kind" }, h.kind),
      el("span", { class: "who" }, h.who || ""), el("span", { class: "words" }, h.words)));
    if (seen.length > SHOWN) rows.push(el("li", {}, el("span", {}), el("span", {}), el("span", {}), el("span", { class: "none" }, `… ${number(seen.length - SHOWN)} more: search to narrow them down`)));
    if (!seen.length) rows.push(el("li", { class: "none" }, "none"));
    $("events").replaceChildren(...rows);
    return seen.length;
  }

  function search() {
    wanted.terms = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const seen = showInstances();
    const events = showEvents();
    $("found").textContent = wanted.terms.length ? `${number(seen)} of ${number(instances.length)} instances, ${number(events)} of ${number(happenings.length)} events` : "";
  }

  // --- plots

  function ticks(low, high, most) {
    const span = high - low || 1;
    const raw = span / most;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9 && found.length < 20; i++) found.push(i * step);
    return found;
  }

  function frame(width, height, left, low, high, begin, end) {
    const x = (t) => left + ((t - begin) / (end - begin || 1)) * (width - left - 12);
    const y = (v) => height - 24 - ((v - low) / (high - low || 1)) * (height - 36);
    const parts = [];
    for (const v of ticks(low, high, 4)) {
      parts.push(svg("line", { class: "axis", x1: left, x2: width - 12, y1: y(v), y2: y(v) }), svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, figure(v)));
    }
    for (const t of ticks(begin, end, 6)) parts.push(svg("text", { x: x(t), y: height - 6, "text-anchor": "middle" }, `${figure(t)} s`));
    return { x, y, parts };
  }

  function plot({ label, series }) {
    const width = 520, height = 180;
    const all = series.flatMap((s) => s.points);
    let low = Math.min(...all.map((p) => p[1])), high = Math.max(...all.map((p) => p[3]));
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.01 || 1;
    low -= pad; high += pad;
    let begin = Math.min(...all.map((p) => p[0])), end = Math.max(...all.map((p) => p[0]));
    if (end - begin < 1e-3) { begin -= 0.5; end += 0.5; }
    const { x, y, parts } = frame(width, height, 62, low, high, begin, end);
    series.forEach(({ points }, i) => {
      const n = Math.min(i, 5);
      const up = points.map((p) => `${x(p[0]).toFixed(1)},${y(p[3]).toFixed(1)}`);
      const down = points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).reverse();
      if (points.length > 1) parts.push(svg("polygon", { class: `band f${n}`, points: [...up, ...down].join(" ") }));
    });
    series.forEach(({ points }, i) => {
      const n = Math.min(i, 5);
      if (points.length > 1) parts.push(svg("polyline", { class: `path s${n}`, points: points.map((p) => `${x(p[0]).toFixed(1)},${y(p[2]).toFixed(1)}`).join(" ") }));
      if (points.length <= 30) {
        for (const p of points) parts.push(svg("circle", { class: `f${n}`, cx: x(p[0]).toFixed(1), cy: y(p[2]).toFixed(1), r: 3 }));
      }
    });
    const cursor = svg("line", { class: "cursor", y1: 8, y2: height - 24, visibility: "hidden" });
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label} over time, from ${figure(low + pad)} to ${figure(high - pad)}` }, ...parts, cursor);
    const reading = el("div", { class: "reading" });
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width * width;
      const near = series.map((s) => [s, s.points.reduce((a, b) => Math.abs(x(a[0]) - at) <= Math.abs(x(b[0]) - at) ? a : b)]);
      const [, first] = near[0];
      cursor.setAttribute("x1", x(first[0])); cursor.setAttribute("x2", x(first[0])); cursor.setAttribute("visibility", "visible");
      reading.textContent = `${first[0].toFixed(3)} s  ` + near.map(([s, p]) => `${s.group}: ${figure(p[2])} (${figure(p[1])} to ${figure(p[3])}, ${number(p[4])})`).join("   ");
    });
    picture.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); reading.textContent = ""; });
    const legend = el("div", { class: "legend" }, ...series.slice(0, 12).map((s, i) => el("span", {}, svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { class: `path s${Math.min(i, 5)}`, x1: 0, x2: 26, y1: 5, y2: 5 })), s.group)));
    return el("figure", {}, el("figcaption", {}, label), legend, picture, reading);
  }

  function plots() {
    const place = $("plots");
    if (!place) return;
    const shown = data.plots.filter((p) => !p.diagnostic);
    const more = data.plots.filter((p) => p.diagnostic);
    place.append(...shown.slice(0, 24).map(plot));
    const rest = [...shown.slice(24), ...more];
    if (!rest.length) return;
    const button = el("button", { type: "button" }, `plot ${number(rest.length)} more, diagnostics of runtimes among them`);
    button.addEventListener("click", () => { place.append(...rest.map(plot)); button.remove(); });
    place.after(el("p", {}, button));
  }

  // --- how many ran when

  function overview() {
    const steps = [];
    for (const { started, ended } of instances) {
      if (started === null) continue;
      steps.push([started, 1]);
      if (ended !== null) steps.push([ended, -1]);
    }
    steps.sort((a, b) => a[0] - b[0]);
    const width = 1100, height = 170;
    const end = Math.max(data.span, 0.001);
    let running = 0, most = 1;
    const line = [[0, 0]];
    for (const [at, change] of steps) {
      line.push([at, running]);
      running += change;
      line.push([at, running]);
      most = Math.max(most, running);
    }
    line.push([end, running], [end, 0]);
    const { x, y, parts } = frame(width, height, 46, 0, most, 0, end);
    parts.push(svg("polygon", { class: "running", points: line.map(([t, n]) => `${x(t).toFixed(1)},${y(n).toFixed(1)}`).join(" ") }));
    parts.push(svg("polyline", { class: "path s0", points: line.map(([t, n]) => `${x(t).toFixed(1)},${y(n).toFixed(1)}`).join(" ") }));
    const marks = happenings.filter((h) => h.kind === "failure" || h.kind === "warning" || (h.kind === "network" && h.words.includes("(due at"))).slice(0, 300);
    for (const h of marks) parts.push(svg("line", { class: `mark ${h.kind}`, x1: x(h.at), x2: x(h.at), y1: 8, y2: height - 24 }, svg("title", {}, `${h.at.toFixed(3)} s ${h.who || ""} ${h.words}`)));
    const changes = marks.filter((h) => h.kind === "network").length;
    $("overview").append(
      svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `instances that ran over time, at most ${number(most)}; ${number(changes)} changes of the network` }, ...parts),
      el("div", { class: "legend" },
        el("span", {}, svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { class: "path s0", x1: 0, x2: 26, y1: 5, y2: 5 })), "instances running"),
        changes ? el("span", {}, svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { class: "mark network", x1: 13, x2: 13, y1: 0, y2: 10 })), "the network changes") : null,
        marks.some((h) => h.kind === "failure") ? el("span", {}, svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { class: "mark failure", x1: 13, x2: 13, y1: 0, y2: 10 })), "a failure") : null,
        marks.some((h) => h.kind === "warning") ? el("span", {}, svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { class: "mark warning", x1: 13, x2: 13, y1: 0, y2: 10 })), "a warning") : null));
  }

  // --- all of it

  const count = (list, key, value) => list.filter((one) => one[key] === value).length;
  build();
  filters($("filters"), [["all", "all", instances.length], ...Object.entries(STATES).map(([s, label]) => [s, `${SIGNS[s]} ${label}`, count(instances, "state", s)])], "all", (value) => { wanted.state = value; search(); });
  const kinds = ["failure", "warning", "network", "run", "stage", "message", "end"];
  filters($("kinds"), [["all", "all", happenings.length], ...kinds.map((k) => [k, k, count(happenings, "kind", k)])], "all", (value) => { wanted.kind = value; search(); });
  plots();
  overview();
  search();
  const failed = cells.find((c) => c.instance.state === "failed");
  if (failed) choose(failed.instance, failed.cell);
  $("search").addEventListener("input", search);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== $("search")) { event.preventDefault(); $("search").focus(); }
    if (event.key === "Escape" && document.activeElement === $("search")) { $("search").value = ""; search(); }
  });
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.documentElement.dataset.ready = "true";
})();
