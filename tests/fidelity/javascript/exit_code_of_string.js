console.log("a");
process.exitCode = "7";
