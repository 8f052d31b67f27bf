"use strict";
// The report's interaction: the point shown, the time slider, the ladder's messages. Everything that
// came from a run is put in as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const points = [...document.querySelectorAll(".point")];
  const narrow = window.matchMedia("(max-width: 760px)");
  const LEFT = 66, WIDTH = 780; // of the charts' plots: present/report/svg.py

  const make = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  // --- which point ---
  const chooser = document.getElementById("point");
  const choose = (number) => points.forEach((point, place) => { point.hidden = place !== number; });
  if (chooser) chooser.addEventListener("change", () => choose(Number(chooser.value)));
  choose(0);

  // --- time: counters, tunnels, the charts' lines ---
  const valueAt = (changes, step) => {
    let value = 0;
    for (const [from, now] of changes) {
      if (from > step) break;
      value = now;
    }
    return value;
  };

  points.forEach((point, place) => {
    const run = data[place];
    const slider = point.querySelector(".slider input");
    const output = point.querySelector(".slider output");
    const counts = [...point.querySelectorAll("[data-count]")];
    const tunnels = [...point.querySelectorAll(".tunnel")];
    const cursors = [...point.querySelectorAll(".chart.time .cursor")];
    const last = Number(slider.max);
    const show = (moved) => {
      const step = Number(slider.value);
      const values = run.counters.map((changes) => valueAt(changes, step));
      counts.forEach((count) => {
        count.textContent = values[Number(count.dataset.count)].toLocaleString("en");
      });
      tunnels.forEach((tunnel) => {
        const ends = (tunnel.dataset.counts || "").split(" ").filter(Boolean);
        const up = ends.length > 0 && ends.every((number) => values[Number(number)] > 0);
        tunnel.classList.toggle("up", up);
      });
      const time = run.end * step / last;
      output.textContent = `${time.toFixed(3)} s`;
      slider.setAttribute("aria-valuetext", `${time.toFixed(3)} seconds`);
      cursors.forEach((cursor) => {
        cursor.setAttribute("transform", `translate(${LEFT + WIDTH * step / last} 0)`);
        if (moved) cursor.style.visibility = "visible";
      });
    };
    slider.addEventListener("input", () => show(true));
    show(false);

    const play = point.querySelector(".play");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "▶";
      play.setAttribute("aria-label", "Play");
    };
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(slider.value) >= last) slider.value = 0;
      play.textContent = "❚❚";
      play.setAttribute("aria-label", "Pause");
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show(true);
        if (Number(slider.value) >= last) stop();
      }, 60);
    });
  });

  // --- the ladder ---
  const LINE = 16;

  const dump = (hex) => {
    // A hex dump of spans, an octet each, so that any of them can be marked.
    const pre = make("pre");
    pre.tabIndex = 0;
    const cells = [];
    const size = hex.length / 2;
    for (let start = 0; start < size; start += LINE) {
      pre.append(`${start.toString(16).padStart(4, "0")}  `);
      let text = "";
      for (let at = start; at < start + LINE; at += 1) {
        if (at >= size) {
          pre.append("   ");
          continue;
        }
        const octet = hex.substr(2 * at, 2);
        const cell = make("span", octet);
        cells.push(cell);
        pre.append(cell, at % 8 === 7 ? "  " : " ");
        const code = parseInt(octet, 16);
        text += code >= 32 && code < 127 ? String.fromCharCode(code) : ".";
      }
      pre.append(` ${text}\n`);
    }
    return [pre, cells];
  };

  const open = (point, button, message) => {
    const panel = point.querySelector(".message");
    const ladder = point.querySelector(".ladder");
    const before = point.querySelector('.rung[aria-expanded="true"]');
    if (before) before.setAttribute("aria-expanded", "false");
    if (before === button) {
      panel.hidden = true;
      ladder.classList.remove("open");
      return;
    }
    button.setAttribute("aria-expanded", "true");
    panel.hidden = false;
    ladder.classList.add("open");
    if (narrow.matches) button.parentElement.append(panel);
    else ladder.append(panel);
    panel.querySelector("h3").textContent = button.querySelector(".what").textContent;
    panel.querySelector(".about").textContent = button.title;

    const panes = panel.querySelector(".panes");
    panes.replaceChildren();
    const cells = message.panes.map(([name, hex]) => {
      const [pre, found] = dump(hex);
      panes.append(make("h4", name), pre);
      return found;
    });
    const select = (chosen, pane, start, size) => {
      panel.querySelectorAll('.tree [aria-pressed="true"]').forEach((other) => {
        other.setAttribute("aria-pressed", "false");
      });
      chosen.setAttribute("aria-pressed", "true");
      cells.forEach((own, number) => own.forEach((cell, at) => {
        const inside = number === pane && at >= start && at < start + size;
        if (inside !== (cell.tagName === "MARK")) {
          const other = make(inside ? "mark" : "span", cell.textContent);
          cell.replaceWith(other);
          own[at] = other;
        }
      }));
      const first = cells[pane] && cells[pane][start];
      if (first) first.scrollIntoView({ block: "nearest", inline: "nearest" });
    };
    // Parts without parts of their own (fields) appear when what they are in is chosen.
    const branch = (parts) => {
      const list = make("ul");
      parts.forEach(([words, pane, start, size, inside]) => {
        const item = make("li");
        const part = make("button", words);
        part.type = "button";
        part.setAttribute("aria-pressed", "false");
        item.append(part);
        const below = inside ? branch(inside) : null;
        const fields = below !== null && inside.every((one) => one.length < 5);
        if (below) item.append(below);
        if (fields) {
          below.hidden = true;
          part.setAttribute("aria-expanded", "false");
        }
        part.addEventListener("click", () => {
          if (fields) {
            below.hidden = part.getAttribute("aria-pressed") === "true" && !below.hidden;
            part.setAttribute("aria-expanded", String(!below.hidden));
          }
          select(part, pane, start, size);
        });
        list.append(item);
      });
      return list;
    };
    panel.querySelector(".tree").replaceChildren(branch(message.parts));
  };

  points.forEach((point, place) => {
    point.querySelectorAll("button.rung").forEach((button) => {
      const message = data[place].messages[Number(button.dataset.message)];
      if (message) button.addEventListener("click", () => open(point, button, message));
    });
  });
})();
