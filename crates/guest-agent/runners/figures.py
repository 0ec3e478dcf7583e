# What matplotlib draws on where values are shown: a figure becomes a result where a window would open. Loaded by
# display.py, when matplotlib asks for it.
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg


class FigureManager(FigureManagerBase):
    def show(self):
        show_figures([self.canvas.figure])


class FigureCanvas(FigureCanvasAgg):
    manager_class = FigureManager


def show(*_, **__):
    show_figures()
