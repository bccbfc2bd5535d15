"""wip"""


class Ssh:
    def __init__(self, target):
        self.target = target

    def why_not(self):
        return f"{self.target.host} is another machine"
