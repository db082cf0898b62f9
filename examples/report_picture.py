# SPDX-License-Identifier: Apache-2.0
"""Cuts charts out of a report of `bisup quantize --report`, as a picture that stands alone: an input's heat
maps (attention, output, mlp, down), or how errors travel in both directions.

    python3 examples/report_picture.py page.html down docs/calibration.svg
    python3 examples/report_picture.py page.html directions docs/bisup.svg
"""

import os
import re
import sys
import xml.etree.ElementTree as Tree

SVG = "http://www.w3.org/2000/svg"
HTML = "{http://www.w3.org/1999/xhtml}"
WIDTH, TITLE, GAP = 440, 26, 24  # units of the report's charts
INK = "#1d1b18"


def height_of(chart):
    return float(chart.get("viewBox").split()[3])


class Picture:
    """Charts in rows, two beside each other, each below its title."""

    def __init__(self, columns):
        self.width, self.height = (WIDTH + GAP) * columns, 0.0
        self.root = Tree.Element(f"{{{SVG}}}svg", {
            "font-family": "system-ui, sans-serif", "font-size": "12", "fill": INK, "color": INK})
        Tree.SubElement(self.root, f"{{{SVG}}}rect", {"width": "100%", "height": "100%", "fill": "white"})

    def words(self, columns):
        """One line: for each column, pieces of text and their colours."""
        for i, pieces in enumerate(columns):
            text = Tree.SubElement(self.root, f"{{{SVG}}}text", {
                "x": f"{GAP / 2 + (WIDTH + GAP) * i + 30:g}", "y": f"{self.height + 17:g}"})
            for k, (words, color) in enumerate(pieces):
                Tree.SubElement(text, f"{{{SVG}}}tspan", {"fill": color, "dx": f"{16 * min(k, 1)}"}).text = words
        self.height += TITLE

    def row(self, charts, titles=()):
        if titles:
            self.words(titles)
        top = self.height
        for i, chart in enumerate(charts):
            for name, value in {"x": GAP / 2 + (WIDTH + GAP) * i, "y": top, "width": WIDTH,
                                "height": height_of(chart)}.items():
                chart.set(name, f"{value:g}")
            chart.set("overflow", "visible")
            self.root.append(chart)
        self.height = top + max(height_of(chart) for chart in charts) + 6

    def write(self, path, colors):
        self.root.set("viewBox", f"0 0 {self.width:g} {self.height:g}")
        self.root.set("width", f"{self.width:g}")
        text = Tree.tostring(self.root, encoding="unicode")
        with open(path + ".part", "w", encoding="utf-8") as file:
            file.write(re.sub(r"var\(--(\w+)\)", lambda name: colors[name[1]], text) + "\n")
        os.replace(path + ".part", path)


def of_id(page, kind, name):
    found = next((e for e in page.iter(HTML + kind) if e.get("id") == name), None)
    if found is None:
        raise ValueError(f"has no {name}: a heat map needs a calibrated method, directions need --report-text")
    return found


def of_class(element, name):
    return [d for d in element.iter(HTML + "div") if d.get("class") == name]


def heat_maps(page, name):
    figure = of_id(page, "figure", "heat-" + name)
    sides = of_class(figure, "side")
    picture = Picture(len(sides))
    picture.row([side[1] for side in sides], [[(f"{side[0].text.strip()}: {side[0][0].text}", INK)] for side in sides])
    picture.row([of_class(figure, "scale")[0][0]])
    return picture


def directions(page, _):
    section = of_id(page, "section", "directions")
    lines = list(section.iter(HTML + "figure"))
    sides = [side for part in of_class(section, "sides") for side in part]
    picture = Picture(2)
    titles = []
    for figure in lines:
        chart, caption = figure
        keys = [("\u25a0 " + key[0].tail, key[0].get("style").split(":")[1]) for key in caption]
        titles.append([(f"{figure.get('id')}: {caption.text.strip()}", INK)])
    picture.words([keys])
    picture.row([figure[0] for figure in lines], titles)
    if sides:
        picture.row([side[1] for side in sides], [[(side[0].text, INK)] for side in sides])
    return picture


def main(path, name, output):
    Tree.register_namespace("", SVG)
    try:
        page = Tree.parse(path)
        style = next(page.iter(HTML + "style")).text
        colors = dict(reversed(re.findall(r"--(\w+): (#\w+)", style)))  # those of the day come first
        (directions if name == "directions" else heat_maps)(page, name).write(output, colors)
    except (OSError, Tree.ParseError, StopIteration, ValueError) as error:
        sys.exit(f"{path}: {error or 'is no report of bisup'}")


if len(sys.argv) != 4:
    sys.exit(__doc__)
main(*sys.argv[1:])
