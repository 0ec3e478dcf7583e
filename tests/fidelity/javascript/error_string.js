console.log("a");
throw "text";
