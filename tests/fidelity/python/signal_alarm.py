import signal, time
def ring(number, frame):
    print("rang", signal.Signals(number).name, frame.f_code.co_name)
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.02)
signal.pause()
print("end")
