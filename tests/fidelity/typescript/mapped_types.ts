type Optional<T> = { [K in keyof T]?: T[K] }; type Getters<T> = { [K in keyof T & string as `get${Capitalize<K>}`]: () => T[K] };
interface User { name: string; age: number }
const part: Optional<User> = { name: "Ann" };
const getters: Getters<User> = { getName: () => "Bob", getAge: () => 5 };
console.log(part, getters.getName(), getters.getAge());
