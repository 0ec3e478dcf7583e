export const a: number = 1;
export function f(): number { return a; }
export default class Main { run() { return f() + 1; } }
export type Alias = number; export interface I { x: 1 }
const hidden = 2; export { hidden as shown };
console.log(new Main().run(), hidden, import.meta.main);
