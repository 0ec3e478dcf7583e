const error = await Promise.any([Promise.reject(new Error("a")), Promise.reject(new Error("b"))]).catch((e) => e);
console.log(error.name, error.errors.map((e) => e.message));
