for (let n = 0; n < 2000; n++) console.log("x".repeat(99));
process.stdout.write("y".repeat(300000) + "\n", () => console.log("written"));
