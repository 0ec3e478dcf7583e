import contextvars
v = contextvars.ContextVar("v", default=0)
v.set(1)
print(v.get(), contextvars.copy_context().run(lambda: v.set(5) and v.get()), v.get(), len(contextvars.copy_context()))
