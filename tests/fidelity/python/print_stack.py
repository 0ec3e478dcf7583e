import traceback
def outer(): inner()
def inner(): traceback.print_stack()
outer()
print(len(traceback.extract_stack()), traceback.format_stack()[-1])
