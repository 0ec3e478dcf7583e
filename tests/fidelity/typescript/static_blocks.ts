class Config { static values: Map<string, number> = new Map(); static { for (const [k, v] of Object.entries({ a: 1, b: 2 })) Config.values.set(k, v); } static readonly size = Config.values.size; }
console.log(Config.values, Config.size);
