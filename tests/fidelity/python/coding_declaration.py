# -*- coding: utf-8 -*-
print("ä€")
