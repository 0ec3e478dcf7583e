async function main() {
  await 1;
  throw new Error("rejected");
}
main();
setTimeout(() => console.log("never"), 500);
