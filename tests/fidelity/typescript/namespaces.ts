namespace Shapes { export const pi = 3; export function area(r: number): number { return pi * r * r; } export namespace Inner { export const deep = "deep"; } }
namespace Shapes { export const extra = "merged"; }
console.log(Shapes.area(2), Shapes.Inner.deep, Shapes.extra);
