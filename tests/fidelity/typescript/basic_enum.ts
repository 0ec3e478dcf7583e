enum Colour {
  Red,
  Green = "green",
}
console.log(Colour, Colour[0], Colour.Green);
