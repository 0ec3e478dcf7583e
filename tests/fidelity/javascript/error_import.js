import nothing from "./nowhere.js";
console.log("never", nothing);
