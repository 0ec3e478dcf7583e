try {
  try { JSON.parse("{bad"); } catch (cause) { throw new Error("outer", { cause }); }
} catch (error) {
  console.log(error.message, error.cause.name, error.cause instanceof SyntaxError);
}
throw new Error("uncaught", { cause: new Error("inner") });
