const counts: { [word: string]: number } = {};
for (const word of "a b a c a".split(" ")) counts[word] = (counts[word] ?? 0) + 1;
console.log(counts, Object.entries(counts).sort(([, x], [, y]) => y - x)[0]);
