declare const NEVER_DEFINED: number; declare function missing(x: number): void; declare global { interface Array<T> { extra?: T } }
console.log(typeof NEVER_DEFINED, typeof missing);
export {};
