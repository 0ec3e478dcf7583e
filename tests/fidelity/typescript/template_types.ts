type Event = `on${Capitalize<"click" | "key">}`;
const handlers: Record<Event, () => string> = { onClick: () => "click", onKey: () => "key" };
for (const name of Object.keys(handlers) as Event[]) console.log(name, handlers[name]());
