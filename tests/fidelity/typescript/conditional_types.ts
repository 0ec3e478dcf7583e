type Unwrap<T> = T extends Promise<infer U> ? U : T; type Element<T> = T extends (infer E)[] ? E : never;
const a: Unwrap<Promise<number>> = 5; const b: Element<string[]> = "b";
console.log(a, b);
