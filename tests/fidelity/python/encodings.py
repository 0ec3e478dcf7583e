import locale, sys
print(sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
print(locale.getpreferredencoding(), locale.getlocale(), locale.getencoding())
print(open("/dev/null").encoding, sys.flags.utf8_mode)
