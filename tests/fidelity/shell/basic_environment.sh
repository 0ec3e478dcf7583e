env | grep -v -e '^_=' -e '^OLDPWD=' -e '^SHLVL=' | sort
pwd
