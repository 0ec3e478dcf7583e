const { AsyncLocalStorage } = require("async_hooks");
const storage = new AsyncLocalStorage();
storage.run("outer", () => {
  setTimeout(() => console.log("timer", storage.getStore()), 1);
  Promise.resolve().then(() => console.log("promise", storage.getStore()));
  storage.run("inner", () => queueMicrotask(() => console.log("microtask", storage.getStore())));
});
console.log(storage.getStore());
