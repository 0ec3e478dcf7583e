import site, sys
print(site.ENABLE_USER_SITE, site.execusercustomize.__module__, site.execusercustomize.__name__)
print(site.__spec__.name, "site" in sys.modules)
