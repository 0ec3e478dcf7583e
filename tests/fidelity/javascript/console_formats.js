console.log("%s is %d years and %i, %f, %j %o %O %%", "Ann", 42.5, 42.9, 1.5, { a: 1 }, [1], { b: [2] }, "rest", 5);
console.log("%c styled", "color: red");
console.log("a\tb", 'quo"te', `multi
line`);
console.log();
console.log(null, undefined, true, -0, 1e21, 10n, Symbol("s"), NaN);
