# Appended to the primer of templates with the package set @data: programs find these modules imported, with the code
# that most programs use first loaded. The backend of matplotlib is left open, and no figure stays.
import numpy, pandas, scipy, scipy.optimize, scipy.stats, sklearn, sklearn.linear_model, sklearn.model_selection
import matplotlib, matplotlib.pyplot, matplotlib.figure, matplotlib.backends.backend_agg
import PIL.Image, PIL.PngImagePlugin, openpyxl, requests


def work_with_data():
    frame = pandas.DataFrame({"k": ["a", "b", "a"], "x": [1.0, 2.0, 4.0], "when": pandas.date_range("2026-01-01", periods=3)})
    table = frame.groupby("k").x.agg(["mean", "sum"]).reset_index().merge(frame, on="k")
    text = io.StringIO(table.to_csv(index=False))
    again = pandas.read_csv(text, parse_dates=["when"])
    matrix = numpy.arange(9.0).reshape(3, 3) + numpy.eye(3)
    solved = numpy.linalg.solve(matrix, numpy.ones(3)), (matrix @ matrix.T).mean(axis=0)
    model = sklearn.linear_model.LinearRegression().fit(matrix, solved[0])
    figure = matplotlib.figure.Figure(figsize=(2, 2))
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="l")
    axes.legend()
    axes.set_title("t")
    picture = io.BytesIO()
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure).print_png(picture)
    picture.seek(0)
    image = PIL.Image.open(picture).convert("L").resize((8, 8))
    print(again.describe(), frame, model.coef_, image.size, frame.dtypes, repr(matrix), again.isna().sum().to_dict())


work_with_data()
import gc
gc.collect()
