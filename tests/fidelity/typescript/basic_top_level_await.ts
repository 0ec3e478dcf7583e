const later = <T,>(value: T): Promise<T> => new Promise((resolve) => setTimeout(() => resolve(value), 5));
console.log(await later("first"));
console.log(await Promise.all([later(1), later(2)]));
