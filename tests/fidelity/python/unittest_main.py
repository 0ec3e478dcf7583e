# fidelity: skip=context -- the name of a context's program is empty
import sys, unittest
class T(unittest.TestCase):
    def test_good(self): self.assertEqual(1, 1)
    def test_bad(self): self.assertEqual(1, 2)
unittest.main(testRunner=unittest.TextTestRunner(stream=open("/dev/null", "w")))
