// fidelity: skip=context -- an exec does not end its process
let rounds = 0;
process.on("beforeExit", () => {
  console.log("idle", ++rounds);
  if (rounds < 3) setTimeout(() => console.log("more"), 1);
});
process.on("exit", () => console.log("exit"));
