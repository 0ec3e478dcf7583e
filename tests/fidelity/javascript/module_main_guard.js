if (require.main === module) console.log("main");
else console.log("imported");
console.log(typeof module, typeof exports, typeof require, module.exports === exports);
