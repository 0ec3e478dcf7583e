function logged(value: any, context: ClassMethodDecoratorContext) { return function (this: any, ...given: any[]) { console.log("call", String(context.name), given); return value.apply(this, given); }; }
function sealed(value: any, context: ClassDecoratorContext) { console.log("class", context.name); }
@sealed class Calculator { @logged add(a: number, b: number): number { return a + b; } }
console.log(new Calculator().add(1, 2));
