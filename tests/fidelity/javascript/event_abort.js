const controller = new AbortController();
controller.signal.addEventListener("abort", () => console.log("aborted", controller.signal.reason.name));
setTimeout(() => controller.abort(), 5);
const error = await new Promise((_, reject) => controller.signal.addEventListener("abort", () => reject(controller.signal.reason))).catch((e) => e);
console.log(error.name, AbortSignal.abort("why").reason);
