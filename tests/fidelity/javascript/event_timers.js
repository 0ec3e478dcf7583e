setTimeout(() => console.log("200"), 200);
setTimeout(() => console.log("10"), 10);
const cancelled = setTimeout(() => console.log("never"), 5);
clearTimeout(cancelled);
setTimeout((a, b) => console.log(a, b), 400, "with", "arguments");
setTimeout(() => console.log("unref"), 60000).unref();
await new Promise((resolve) => setTimeout(resolve, 600));
let count = 0;
await new Promise((resolve) => {
  const interval = setInterval(() => { console.log("interval", ++count); if (count === 3) { clearInterval(interval); resolve(); } }, 1);
});
