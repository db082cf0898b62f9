# SPDX-License-Identifier: Apache-2.0
"""Cuts one heat map out of a report of `bisup quantize --report`, as a picture that stands alone.

    python3 examples/report_picture.py page.html down docs/calibration.svg
"""

import sys
import xml.etree.ElementTree as Tree

SVG = "http://www.w3.org/2000/svg"
HTML = "{http://www.w3.org/1999/xhtml}"
WIDTH, TITLE, GAP = 440, 26, 24  # units of the report's charts


def height_of(chart):
    return float(chart.get("viewBox").split()[3])


def placed(chart, x, y):
    chart.set("x", str(x))
    chart.set("y", str(y))
    chart.set("width", str(WIDTH))
    chart.set("height", str(height_of(chart)))
    chart.set("overflow", "visible")
    return chart


def main(page, name, output):
    Tree.register_namespace("", SVG)
    figure = next(f for f in Tree.parse(page).iter(HTML + "figure") if f.get("id") == "heat-" + name)
    sides = [d for d in figure.iter(HTML + "div") if d.get("class") == "side"]
    scale = next(d for d in figure.iter(HTML + "div") if d.get("class") == "scale")[0]
    map_height = max(height_of(side[1]) for side in sides)
    width, height = (WIDTH + GAP) * len(sides), TITLE + map_height + height_of(scale) + 12
    picture = Tree.Element(f"{{{SVG}}}svg", {
        "viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "font-family": "system-ui, sans-serif",
        "font-size": "12", "fill": "#1d1b18", "color": "#1d1b18"})
    Tree.SubElement(picture, f"{{{SVG}}}rect", {"width": "100%", "height": "100%", "fill": "white"})
    for i, side in enumerate(sides):
        x = GAP / 2 + (WIDTH + GAP) * i
        text = Tree.SubElement(picture, f"{{{SVG}}}text", {"x": f"{x + 30:g}", "y": "17"})
        text.text = f"{side[0].text.strip()}: {side[0][0].text}"
        picture.append(placed(side[1], x, TITLE))
    picture.append(placed(scale, GAP / 2, TITLE + map_height + 6))
    Tree.ElementTree(picture).write(output, encoding="unicode")
    with open(output, "a", encoding="utf-8") as file:
        file.write("\n")


main(*sys.argv[1:])
