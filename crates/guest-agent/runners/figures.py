# The matplotlib backend for displayed values: a figure becomes a result where a window would open. Loaded by
# display.py when matplotlib imports it.
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg


class FigureManager(FigureManagerBase):
    def show(self):
        show_figures([self.canvas.figure])


class FigureCanvas(FigureCanvasAgg):
    manager_class = FigureManager


def show(*_, **__):
    show_figures()
