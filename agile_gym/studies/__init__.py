"""Studies: many trainings that differ in named factors, and a page on what the differences are.

spec         a study's file: settings, factors, seeds, evaluations
arms         the trainings that follow from it, and the stages that they share
photographs  parts of a collection of photographs, as folders
estimate     time of a study, measured in small
preparing    all of these checks, and what one call does with a study
arm          one training of a study, in a process of its own
running      all of them, in several processes, within a budget
results      figures of finished trainings, with intervals over seeds
findings     sentences that the figures support
page         the page, and ``study.json``
"""

__all__: list[str] = []
