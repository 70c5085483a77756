from tests.test_browser import *
from tests.test_browser import Notebook, expect_text
def test_x(page, lab, course):
    import time
    page.set_viewport_size({"width":1280,"height":1400})
    t=time.time()
    chapter = Notebook(page, lab, course, CHAPTER)
    print("opened", time.time()-t)
    page.screenshot(path="/tmp/x/t/s0.png")
    chapter.run_all()
    print("ran", time.time()-t)
    panel = chapter.cell("panel(draw_head")
    panel.scroll_into_view_if_needed()
    time.sleep(2)
    page.screenshot(path="/tmp/x/t/s1.png")
    panel.screenshot(path="/tmp/x/t/s2.png")
    open("/tmp/x/t/panel.html","w").write(panel.evaluate("e => e.outerHTML")[:200000])
