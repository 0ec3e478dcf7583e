const drawn = Array.from({ length: 1000 }, Math.random);
console.log(drawn.every((n) => n >= 0 && n < 1), new Set(drawn).size > 990, Math.random.name, Math.random.length);
