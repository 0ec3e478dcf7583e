# nothing

# at all