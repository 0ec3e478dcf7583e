type Tree = { value: number; left?: Tree; right?: Tree };
const tree: Tree = { value: 1, left: { value: 2 } };
console.log(tree.left?.value, tree.right?.left?.value, tree.right?.["value"] ?? "none", (tree as any).f?.());
let x: number | null = null; x ??= 5; x ||= 6; x &&= 7; console.log(x);
