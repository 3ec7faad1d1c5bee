"use strict";
(() => {
  // One of several views of a section is shown. Without this script all of them are.
  for (const group of document.querySelectorAll(".switch")) {
    const views = group.parentElement.querySelectorAll("[data-view]");
    const show = (chosen) => views.forEach((view) => { view.hidden = view.dataset.view !== chosen; });
    group.addEventListener("change", (event) => show(event.target.value));
    group.hidden = false;
    show(group.querySelector(":checked").value);
  }

  for (const figure of document.querySelectorAll(".examples > figure")) {
    const frame = figure.querySelector(".compare");
    const slider = frame.querySelector("input");
    const clean = figure.querySelector("input[type=checkbox]");
    const move = () => {
      frame.style.setProperty("--at", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} % degraded`);
    };
    slider.addEventListener("input", move);
    clean.addEventListener("change", () => {
      frame.querySelector(".clean").hidden = !clean.checked;
      frame.querySelector(".tag.right").textContent = clean.checked ? "clean" : "restored";
    });
    clean.parentElement.hidden = false;
    move();
  }

  // What a mark says, on pointing at it or by the arrow keys: sooner and larger than the browser's own title.
  const tip = document.getElementById("tip");
  for (const drawing of document.querySelectorAll("svg.tips")) {
    const marks = [...drawing.querySelectorAll("title")].map((title) => {
      const mark = title.parentElement;
      mark.dataset.says = title.textContent;
      title.remove();
      return mark;
    });
    let at = -1;
    const hide = () => {
      tip.hidden = true;
      drawing.querySelector(".near")?.classList.remove("near");
    };
    const show = (mark) => {
      hide();
      const box = mark.getBoundingClientRect();
      mark.classList.add("near");
      tip.textContent = mark.dataset.says;
      tip.hidden = false;
      const left = box.left + box.width / 2 - tip.offsetWidth / 2;
      const above = box.top - tip.offsetHeight - 8;
      tip.style.left = `${Math.max(6, Math.min(left, innerWidth - tip.offsetWidth - 6))}px`;
      tip.style.top = `${above > 6 ? above : box.bottom + 8}px`;
    };
    drawing.setAttribute("tabindex", "0");
    drawing.setAttribute("aria-description", "Arrow keys read the marks one by one.");
    drawing.addEventListener("pointerover", (event) => {
      const mark = event.target.closest("[data-says]");
      if (mark) { at = marks.indexOf(mark); show(mark); } else hide();
    });
    drawing.addEventListener("pointerleave", hide);
    drawing.addEventListener("blur", hide);
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !marks.length) return;
      event.preventDefault();
      at = at < 0 ? 0 : (at + step + marks.length) % marks.length;
      show(marks[at]);
    });
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  const download = document.getElementById("download");
  download.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([document.getElementById("numbers").textContent], { type: "application/json" }));
    link.download = "report.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  download.hidden = false;
  JSON.parse(document.getElementById("numbers").textContent);
  document.documentElement.dataset.ready = "true";
})();
