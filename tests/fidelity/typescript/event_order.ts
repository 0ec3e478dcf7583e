const log: string[] = [];
const done = new Promise<void>((resolve) => setTimeout(() => { log.push("timeout"); resolve(); }, 1));
process.nextTick((text: string) => log.push(text), "tick");
queueMicrotask((): void => void log.push("microtask"));
(async (): Promise<void> => { log.push("async"); await null; log.push("awaited"); })();
log.push("sync");
await done;
console.log(log);
