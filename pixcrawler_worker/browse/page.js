"use strict";
// The page of `pixcrawler browse`. Texts from outside reach the document by textContent only, and links by their
// protocol. Thumbnails are on sheets inside of the page, or at the server that sent it; either are read when they are
// shown. Only the tiles near the visible part of the page exist.
(() => {
  const GAP = 10, HEAD = 44, CAPTION = 42, NARROW = 112, WIDE = 150, OVERSCAN = 600;
  const MAX_THUMBNAILS = 1500; // that are kept, of those that a server has sent
  const data = JSON.parse(document.getElementById("data").textContent);
  document.getElementById("data").remove();
  const images = data.images.map((row, order) => {
    const image = { order };
    data.fields.forEach((field, at) => { image[field] = row[at]; });
    return image;
  });
  const by = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en-US");
  const count = (n, noun) => `${number.format(n)} ${noun}${n === 1 ? "" : "s"}`;

  function made(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // Marks: digests of images to leave out, those of other jobs too when a list has them.

  const KEY = `pixcrawler-browse:${data.job.id}:${data.job.created}`;
  const marks = new Set();
  const isDigest = (text) => typeof text === "string" && /^[0-9a-f]{64}$/i.test(text);

  function restoreMarks() {
    try {
      const stored = JSON.parse(localStorage.getItem(KEY) || "[]");
      marks.clear();
      stored.filter(isDigest).forEach((digest) => marks.add(digest.toLowerCase()));
    } catch { /* a browser without storage, or what something else has stored */ }
  }

  function keepMarks() {
    try {
      localStorage.setItem(KEY, JSON.stringify([...marks]));
    } catch {
      notify("This browser keeps no marks for this page: save the list before you close it.");
    }
  }

  function setMarks(some, on) {
    some.forEach((image) => (on ? marks.add(image.sha256) : marks.delete(image.sha256)));
    keepMarks();
    if (state.view === "marked" || state.view === "unmarked") { select(); } else { refresh(); }
    showStatus();
  }

  function notify(text) {
    by("notice").textContent = text;
    by("notice").hidden = !text;
  }

  function saveList() {
    const listed = new Set();
    const entries = [];
    for (const image of images) {
      if (marks.has(image.sha256) && !listed.has(image.sha256)) {
        listed.add(image.sha256);
        entries.push({ id: image.id, sha256: image.sha256 });
      }
    }
    for (const digest of marks) { if (!listed.has(digest)) { entries.push({ sha256: digest }); } }
    const document_ = { version: data.list.version, job: data.job.id, [data.list.key]: entries };
    const url = URL.createObjectURL(new Blob([`${JSON.stringify(document_, null, 1)}\n`], { type: "application/json" }));
    const link = made("a", { href: url, download: data.list.file });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  function listed(text) {
    const content = JSON.parse(text);
    if (content && !Array.isArray(content) && (content.version ?? data.list.version) !== data.list.version) {
      throw new Error(`its version is ${content.version}, and this page reads version ${data.list.version}`);
    }
    const entries = Array.isArray(content) ? content : content?.[data.list.key];
    if (!Array.isArray(entries)) { throw new Error(`expected an array, or an object with one as ${data.list.key}`); }
    return entries.map((entry, at) => {
      const digest = typeof entry === "string" ? entry : entry?.sha256;
      if (!isDigest(digest)) { throw new Error(`entry ${at + 1} has no SHA-256 of 64 hexadecimal digits`); }
      return digest.toLowerCase();
    });
  }

  async function loadList(file) {
    try {
      const digests = [...new Set(listed(await file.text()))];
      const known = new Set(images.map((image) => image.sha256));
      const foreign = digests.filter((digest) => !known.has(digest)).length;
      digests.forEach((digest) => marks.add(digest));
      keepMarks();
      select();
      notify(`${count(digests.length, "mark")} loaded from ${file.name}` +
        (foreign ? `, ${number.format(foreign)} of images that are not in this job.` : "."));
    } catch (error) {
      notify(`${file.name} is no list of exclusions: ${error.message}`);
    }
  }

  // What is shown: filters, order, groups.

  const ALL = "";
  const state = { view: ALL };
  let shown = images, rows = [], height = 0, columns = 1, tile = WIDE;
  const scores = new Map(data.numbers.map((one, at) => [one.key, at]));
  const score = (image, key) => image.numbers[scores.get(key)];
  const reason = (image) => (typeof image.tile === "string" ? image.tile : "");

  function searched(image) {
    image.text ??= [image.title, image.caption, image.author, image.name, image.query, data.labels[image.label],
      ...Object.values(image.columns ?? {})].join("\n").toLowerCase();
    return image.text;
  }

  function readForm() {
    for (const id of ["text", "label", "check", "license", "source", "view", "number", "min", "max", "sort"]) {
      state[id] = by(id).value;
    }
    state.descending = by("descending").checked;
  }

  function filter() {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const least = state.min === "" ? -Infinity : Number(state.min);
    const most = state.max === "" ? Infinity : Number(state.max);
    const bounded = state.min !== "" || state.max !== "";
    const is = (chosen, value) => chosen === ALL || Number(chosen) === value;
    return (image) => {
      if (!is(state.label, image.label) || !is(state.license, image.license) || !is(state.source, image.source)) { return false; }
      if (state.check === "any" && !image.findings.length) { return false; }
      if (state.check === "none" && image.findings.length) { return false; }
      if (/^\d/.test(state.check) && !image.findings.some(([check]) => check === Number(state.check))) { return false; }
      if (state.view === "marked" && !marks.has(image.sha256)) { return false; }
      if (state.view === "unmarked" && marks.has(image.sha256)) { return false; }
      if (state.view === "groups" && image.group === null) { return false; }
      if (state.view === "invalid" && image.valid !== false) { return false; }
      if (state.view === "valid" && image.valid === false) { return false; }
      if (state.view === "missing" && !reason(image)) { return false; }
      if (bounded) {
        const value = score(image, state.number);
        if (value === null || value < least || value > most) { return false; }
      }
      return words.every((word) => searched(image).includes(word));
    };
  }

  function compare(one, other) {
    const grouped = state.view === "groups" ? one.group - other.group : 0;
    if (grouped) { return grouped; }
    const turn = state.descending ? -1 : 1;
    if (state.sort === "order" && state.view === "groups") { return one.rank - other.rank; } // the best one first
    if (state.sort === "order") { return turn * (one.order - other.order); }
    const [a, b] = [score(one, state.sort), score(other, state.sort)];
    if (a === null || b === null) { return (a === null) - (b === null) || one.order - other.order; }
    return turn * (a - b) || one.order - other.order;
  }

  function select() {
    readForm();
    shown = images.filter(filter()).sort(compare);
    const active = ["text", "label", "check", "license", "source", "view", "min", "max"].filter((id) => state[id] !== ALL);
    by("active").textContent = active.length ? `(${active.length} active)` : "";
    by("empty").hidden = shown.length > 0;
    current = Math.min(current, Math.max(shown.length - 1, 0));
    place();
    showStatus();
  }

  // Rows of the grid with their positions; those near the visible part have elements.

  const grid = by("grid");
  const drawn = new Map();
  let current = 0;

  function place() {
    const width = grid.clientWidth;
    const least = width < 560 ? NARROW : WIDE;
    columns = Math.max(2, Math.floor((width + GAP) / (least + GAP)));
    tile = Math.floor((width - GAP * (columns - 1)) / columns);
    rows = [];
    height = 0;
    const line = tile + CAPTION + GAP;
    let start = 0;
    while (start < shown.length) {
      let end = shown.length;
      if (state.view === "groups") {
        end = start + 1;
        while (end < shown.length && shown[end].group === shown[start].group) { end += 1; }
        rows.push({ y: height, height: HEAD, group: shown[start].group, start, end });
        height += HEAD;
      }
      for (let at = start; at < end; at += columns) {
        rows.push({ y: height, height: line, start: at, end: Math.min(at + columns, end) });
        height += line;
      }
      start = end;
    }
    grid.style.height = `${height}px`;
    drawn.forEach((element) => discard(element));
    drawn.clear();
    refresh();
  }

  function rowAt(y) {
    let low = 0, high = rows.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (rows[middle].y <= y) { low = middle; } else { high = middle - 1; }
    }
    return low;
  }

  function refresh() {
    const top = grid.getBoundingClientRect().top;
    const [from, to] = [-top - OVERSCAN, innerHeight - top + OVERSCAN];
    const wanted = new Set();
    for (let at = rowAt(from); at < rows.length && rows[at].y < to; at += 1) {
      const row = rows[at];
      if (row.group !== undefined) {
        wanted.add(`group ${row.group}`);
        if (!drawn.has(`group ${row.group}`)) { drawn.set(`group ${row.group}`, groupHead(row)); }
        continue;
      }
      for (let position = row.start; position < row.end; position += 1) {
        wanted.add(position);
        if (!drawn.has(position)) { drawn.set(position, tileOf(position, row)); }
        showMark(drawn.get(position), shown[position]);
      }
    }
    for (const [key, element] of drawn) {
      if (!wanted.has(key)) {
        discard(element);
        drawn.delete(key);
      }
    }
    let next = grid.firstChild;
    for (const key of wanted) {
      const element = drawn.get(key);
      // In the order of the rows, in which a screen reader goes through them.
      if (element === next) { next = next.nextSibling; } else { grid.insertBefore(element, next); }
    }
  }

  function showStatus() {
    const ours = images.reduce((sum, image) => sum + marks.has(image.sha256), 0);
    by("status").textContent = shown.length === images.length
      ? `${count(images.length, "image")}, ${number.format(ours)} marked`
      : `${number.format(shown.length)} of ${count(images.length, "image")}, ${number.format(ours)} marked`;
    by("save").disabled = marks.size === 0;
  }

  function discard(element) {
    element.stop?.abort();
    element.remove();
  }

  function groupHead(row) {
    const members = shown.slice(row.start, row.end);
    const title = made("span", { textContent: `Group ${row.group + 1}: ${count(members.length, "image")}` });
    const button = made("button", { type: "button", textContent: "Mark all but the first" });
    button.addEventListener("click", () => setMarks(members.slice(1), true));
    const element = made("li", { className: "group" }, title, button);
    element.style.top = `${row.y}px`;
    element.style.height = `${row.height}px`;
    return element;
  }

  function described(image) {
    return image.title || image.caption || data.labels[image.label] || image.name;
  }

  function tileOf(position, row) {
    const image = shown[position];
    const button = made("button", { type: "button", className: "show", tabIndex: position === current ? 0 : -1 });
    button.style.height = `${tile}px`;
    const mark = made("button", { type: "button", className: "mark", textContent: "\u2715", tabIndex: -1 });
    const label = made("b", { textContent: data.labels[image.label] || "no label" });
    const caption = made("span", { className: "caption" }, label, made("br"), shortFact(image));
    const element = made("li", { className: "tile" }, button, mark, caption);
    element.style.top = `${row.y}px`;
    element.style.left = `${(position - row.start) * (tile + GAP)}px`;
    element.style.width = `${tile}px`;
    element.setAttribute("aria-setsize", shown.length);
    element.setAttribute("aria-posinset", position + 1);
    element.dataset.id = image.id;
    button.addEventListener("click", (event) => {
      focusOn(position);
      if (event.ctrlKey || event.metaKey) { setMarks([image], !marks.has(image.sha256)); } else { open(position); }
    });
    mark.addEventListener("click", (event) => {
      const on = !marks.has(image.sha256);
      const [from, to] = event.shiftKey ? [Math.min(current, position), Math.max(current, position)] : [position, position];
      setMarks(shown.slice(from, to + 1), on);
      focusOn(position);
    });
    element.stop = new AbortController();
    paint(button, image, tile - 2, element.stop.signal);
    return element;
  }

  function shortFact(image) {
    if (image.findings.length) {
      const names = image.findings.map(([check]) => data.checks[check].name);
      return made("span", { className: image.valid === false ? "flag" : "", textContent: names.join(", ").replaceAll("_", " ") });
    }
    const value = state.sort && state.sort !== "order" ? score(image, state.sort) : null;
    if (value !== null) { return made("span", { textContent: `${data.numbers[scores.get(state.sort)].name} ${shortNumber(value)}` }); }
    return made("span", { textContent: image.width ? `${image.width}\u00d7${image.height}` : "size unknown" });
  }

  function shortNumber(value) {
    return Number.isInteger(value) ? number.format(value) : String(Number(value.toPrecision(3)));
  }

  function showMark(element, image) {
    const on = marks.has(image.sha256);
    element.classList.toggle("marked", on);
    const [button, mark] = element.children;
    mark.setAttribute("aria-pressed", on);
    mark.setAttribute("aria-label", `Mark image ${image.id}`);
    button.setAttribute("aria-label", `${described(image)}${reason(image) ? `, ${reason(image)}` : ""}${on ? ", marked" : ""}`);
  }

  // Thumbnails

  const sheets = new Map();

  function blobOf(id, type) {
    const element = by(id);
    if (!element) { return null; }
    const text = atob(element.textContent);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at += 1) { bytes[at] = text.charCodeAt(at); }
    element.remove(); // its text takes more memory than the bytes
    return URL.createObjectURL(new Blob([bytes], { type }));
  }

  function sheetUrl(sheet) {
    if (!sheets.has(sheet)) {
      const url = blobOf(`sheet-${sheet}`, "image/jpeg");
      if (!url) { return null; }
      sheets.set(sheet, url);
    }
    return sheets.get(sheet);
  }

  const parsed = new Promise((resolve) => {
    if (document.readyState === "loading") { document.addEventListener("DOMContentLoaded", resolve); } else { resolve(); }
  });

  async function paint(button, image, side, signal) {
    const missing = reason(image);
    if (missing) {
      button.replaceChildren(made("span", { className: "reason", textContent: missing }));
      return;
    }
    const thumb = made("span", { className: "thumb" });
    if (data.serve) {
      thumb.style.width = thumb.style.height = `${side}px`;
      button.replaceChildren(thumb);
      try {
        thumb.style.backgroundImage = `url("${await served(image, signal)}")`;
      } catch (error) {
        if (error.name !== "AbortError") {
          button.replaceChildren(made("span", { className: "reason", textContent: error.message }));
        }
      }
      return;
    }
    const [sheet, cell, width, height_] = image.tile;
    const factor = Math.min(side / width, side / height_, 1.5);
    const across = Math.min(data.sheet.columns, data.sheet.sizes[sheet]);
    const scaled = (pixels) => `${pixels * factor}px`;
    thumb.style.width = scaled(width);
    thumb.style.height = scaled(height_);
    thumb.style.backgroundSize = `${scaled(across * data.sheet.side)} auto`;
    const [x, y] = [cell % data.sheet.columns, Math.floor(cell / data.sheet.columns)];
    thumb.style.backgroundPosition = `${scaled(-x * data.sheet.side)} ${scaled(-y * data.sheet.side)}`;
    button.replaceChildren(thumb);
    let url = sheetUrl(sheet);
    while (!url && !signal.aborted) {
      // The rest of the page is still being read.
      await Promise.race([parsed, new Promise((resolve) => { setTimeout(resolve, 100); })]);
      url = sheetUrl(sheet);
      if (!url && document.readyState !== "loading") { return; }
    }
    if (url) { thumb.style.backgroundImage = `url("${url}")`; }
  }

  const kept = new Map(); // by id, the one that was shown last at the end

  async function served(image, signal) {
    if (kept.has(image.id)) {
      const url = kept.get(image.id);
      kept.delete(image.id);
      kept.set(image.id, url);
      return url;
    }
    const response = await fetch(`thumbnail/${image.id}`, { signal });
    if (!response.ok) { throw new Error((await response.text()).slice(0, 200)); }
    const url = URL.createObjectURL(await response.blob());
    kept.set(image.id, url);
    if (kept.size > MAX_THUMBNAILS) {
      const [oldest, old] = kept.entries().next().value;
      kept.delete(oldest);
      URL.revokeObjectURL(old);
    }
    return url;
  }

  // The large view

  const dialog = by("large");
  let opened = 0;

  function open(position) {
    opened = position;
    const image = shown[position];
    by("large-title").textContent = `${described(image)} (${number.format(position + 1)} of ${number.format(shown.length)})`;
    by("previous").disabled = position === 0;
    by("next").disabled = position === shown.length - 1;
    showLargeMark();
    by("links").replaceChildren(...image.links.filter(([, url]) => /^https?:\/\//i.test(url)).map(([text, url]) =>
      made("a", { href: url, textContent: text, target: "_blank", rel: "noopener noreferrer" })));
    by("findings").replaceChildren(...image.findings.map(([check, text]) =>
      made("li", { className: data.checks[check].severity, textContent: `${data.checks[check].name}: ${text}` })));
    by("facts").replaceChildren(...facts(image).flatMap(([name, value]) =>
      [made("dt", { textContent: name }), made("dd", { textContent: value })]));
    paintLarge(image);
    if (!dialog.open) { dialog.showModal(); }
    dialog.scrollTop = 0;
  }

  function facts(image) {
    const validity = image.valid === null ? "not validated" : image.valid ? "valid" : "invalid";
    return [
      ["Image", String(image.id)], ["Label", data.labels[image.label]], ["Title", image.title], ["Caption", image.caption],
      ["Author", image.author], ["License", data.licenses[image.license]], ["Attribution", image.attribution],
      ["Source", data.sources[image.source]], ["Query", image.query],
      ["Size", image.width ? `${image.width} \u00d7 ${image.height} pixels` : ""], ["Validation", validity],
      ["Near duplicates", image.group === null ? "" : `group ${image.group + 1}`],
      ...image.facts,
      ...data.numbers.filter((one) => !one.shown).map((one) => [one.name[0].toUpperCase() + one.name.slice(1),
        score(image, one.key) === null ? "" : shortNumber(score(image, one.key))]),
      ...Object.entries(image.columns ?? {}), ["File", image.name], ["SHA-256", image.sha256],
    ].filter(([, value]) => value !== "" && value !== null && value !== undefined);
  }

  async function paintLarge(image) {
    const place_ = by("large-image");
    const said = (text) => place_.replaceChildren(made("span", { className: "reason", textContent: text }));
    if (reason(image)) { said(reason(image)); return; }
    const here = () => shown[opened] === image;
    if (data.serve) {
      const full = made("img", { alt: described(image) });
      full.addEventListener("error", () => { if (here()) { said("the image cannot be shown"); } });
      full.src = `large/${image.id}`;
      place_.replaceChildren(full);
      return;
    }
    previews.set(image.id, previews.get(image.id) ?? blobOf(`preview-${image.id}`, "image/jpeg"));
    const preview = previews.get(image.id);
    if (preview) {
      place_.replaceChildren(made("img", { alt: described(image), src: preview }));
      return;
    }
    await parsed;
    const url = sheetUrl(image.tile[0]);
    if (!url) { said("the page is not complete: this thumbnail is missing"); return; }
    const sheet = made("img", { src: url });
    await sheet.decode();
    const [, cell, width, height_] = image.tile;
    const [x, y] = [cell % data.sheet.columns, Math.floor(cell / data.sheet.columns)];
    const canvas = made("canvas", { width, height: height_, className: "tiny" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", described(image));
    canvas.getContext("2d").drawImage(sheet, x * data.sheet.side, y * data.sheet.side, width, height_, 0, 0, width, height_);
    if (here()) { place_.replaceChildren(canvas); }
  }
  const previews = new Map();

  function showLargeMark() {
    const on = marks.has(shown[opened].sha256);
    by("large-mark").setAttribute("aria-pressed", on);
    by("large-mark").textContent = on ? "Marked" : "Mark";
  }

  function step(by_) {
    const position = opened + by_;
    if (position >= 0 && position < shown.length) { open(position); focusOn(position, false); }
  }

  function markOpened() {
    const image = shown[opened];
    setMarks([image], !marks.has(image.sha256));
    if (shown[opened] === image) {
      showLargeMark();
    } else if (shown.length) {
      open(Math.min(opened, shown.length - 1)); // it is not among those that are shown any more
    } else {
      dialog.close();
    }
  }

  // Keyboard

  function focusOn(position, focus = true) {
    const before = drawn.get(current);
    if (before) { before.firstElementChild.tabIndex = -1; }
    current = position;
    const row = rows[rowOf(position)];
    if (!row) { return; }
    const top = grid.getBoundingClientRect().top + row.y;
    const bar = document.querySelector(".bar").offsetHeight;
    if (top < bar) { scrollBy(0, top - bar - GAP); }
    if (top + row.height > innerHeight) { scrollBy(0, top + row.height - innerHeight + GAP); }
    refresh();
    const button = drawn.get(position)?.firstElementChild;
    if (button) {
      button.tabIndex = 0;
      if (focus) { button.focus({ preventScroll: true }); }
    }
  }

  function rowOf(position) {
    return rows.findIndex((row) => row.group === undefined && row.start <= position && position < row.end);
  }

  function target(key) {
    const page = columns * Math.max(1, Math.floor((innerHeight - 120) / (tile + CAPTION + GAP)));
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page };
    if (key === "Home") { return 0; }
    if (key === "End") { return shown.length - 1; }
    return key in steps ? Math.min(Math.max(current + steps[key], 0), shown.length - 1) : null;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !shown.length) { return; }
    const marking = event.key === "x" || event.key === "X" || event.key === "Delete";
    if (dialog.open) {
      if (event.key === "ArrowLeft") { step(-1); } else if (event.key === "ArrowRight") { step(1); } else if (marking) { markOpened(); } else { return; }
      event.preventDefault();
      return;
    }
    if (event.target.closest("input, select, textarea, summary, dialog")) { return; }
    const position = grid.contains(event.target) || event.target === document.body ? target(event.key) : null;
    if (position !== null) {
      focusOn(position);
    } else if (marking) {
      const image = shown[current];
      setMarks([image], !marks.has(image.sha256));
      focusOn(Math.min(current, Math.max(shown.length - 1, 0)));
    } else {
      return;
    }
    event.preventDefault();
  });

  // Form

  function options(id, entries) {
    by(id).replaceChildren(...entries.map(([value, text]) => made("option", { value, textContent: text })));
  }

  // Of labels that are ids, as many as images, a list would take seconds, and be of no use.
  const MAX_OPTIONS = 1000;

  function counted(field, names, all, unknown) {
    const counts = new Map();
    images.forEach((image) => counts.set(image[field], (counts.get(image[field]) ?? 0) + 1));
    const entries = [...counts].map(([at, n]) => [at, names[at] || unknown, n]).sort((a, b) => b[2] - a[2]);
    options(field, [[ALL, all], ...entries.slice(0, MAX_OPTIONS).map(([at, name, n]) => [at, `${name} (${number.format(n)})`])]);
    const more = entries.length - MAX_OPTIONS;
    if (more > 0) { by(field).append(made("option", { disabled: true, textContent: `${number.format(more)} more: search for them` })); }
  }

  function fillForm() {
    counted("label", data.labels, "all labels", "no label");
    counted("license", data.licenses, "all licenses", "unknown");
    counted("source", data.sources, "all sources", "unknown");
    const found = data.checks.map(() => 0);
    images.forEach((image) => new Set(image.findings.map(([check]) => check)).forEach((check) => { found[check] += 1; }));
    options("check", [[ALL, "all"], ["any", "with any finding"], ["none", "without findings"],
      ...data.checks.map((check, at) => [at, `${check.heading} (${number.format(found[at])})`])]);
    const n = (some) => number.format(images.filter(some).length);
    options("view", [
      [ALL, "all images"], ["groups", `near duplicates, in groups (${n((image) => image.group !== null)})`],
      ["unmarked", "not marked"], ["marked", "marked"], ["valid", `not invalid (${n((image) => image.valid !== false)})`],
      ["invalid", `invalid (${n((image) => image.valid === false)})`],
      ...(data.serve ? [] : [["missing", `without thumbnail (${n((image) => reason(image))})`]]),
    ]);
    options("number", data.numbers.map((one) => [one.key, one.name]));
    options("sort", [["order", "label, then time"], ...data.numbers.map((one) => [one.key, one.name])]);
  }

  let waiting = 0;
  by("form").addEventListener("submit", (event) => event.preventDefault());
  by("form").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(select, 80);
  });
  by("clear").addEventListener("click", () => { by("form").reset(); notify(""); select(); });
  by("mark-shown").addEventListener("click", () => setMarks(shown, true));
  by("unmark-shown").addEventListener("click", () => setMarks(shown, false));
  by("save").addEventListener("click", saveList);
  by("load").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", async () => {
    const [file] = by("file").files;
    if (file) { await loadList(file); }
    by("file").value = "";
  });
  by("close").addEventListener("click", () => dialog.close());
  by("previous").addEventListener("click", () => step(-1));
  by("next").addEventListener("click", () => step(1));
  by("large-mark").addEventListener("click", markOpened);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) { dialog.close(); } });
  dialog.addEventListener("close", () => { if (shown.length) { focusOn(Math.min(opened, shown.length - 1)); } });
  // Another window with the same page.
  addEventListener("storage", (event) => { if (event.key === KEY) { restoreMarks(); select(); } });
  let frame = 0;
  const later = (act) => () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(act);
  };
  addEventListener("scroll", later(refresh), { passive: true });
  let width = 0;
  new ResizeObserver(() => {
    if (grid.clientWidth !== width) {
      width = grid.clientWidth;
      place();
    }
  }).observe(grid);
  addEventListener("resize", later(refresh));

  by("name").textContent = data.job.name;
  by("command").textContent = `pixcrawler export ${data.job.id} --exclude ${data.list.file}`;
  by("filters").open = innerWidth >= 700;
  restoreMarks();
  fillForm();
  width = grid.clientWidth;
  select();
  requestAnimationFrame(() => requestAnimationFrame(() => { document.documentElement.dataset.shown = Math.round(performance.now()); }));
})();
