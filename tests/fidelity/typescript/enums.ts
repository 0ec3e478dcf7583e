enum Color { Red, Green = 5, Blue }
enum Name { A = "a", B = "b" }
const enum Flag { X = 1 << 0, Y = 1 << 1, XY = X | Y }
console.log(Color.Blue, Color[5], Object.keys(Color), Name.B, Flag.XY, Color.Red === 0);
